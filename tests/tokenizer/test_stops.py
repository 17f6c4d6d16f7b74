import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.tokenizer import StopMatcher
from ferrum_jax.types.errors import RequestError


def run(matcher, pushes):
    return "".join(matcher.push(text) for text in pushes) + matcher.flush()


def reference(text, stops, include_stop=False):
    """The first end of any stop string, found by looking at every end."""
    for end in range(1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return (text[:end] if include_stop else text[: end - len(stop)]), stop
    return text, None


def test_the_earliest_end_wins():
    matcher = StopMatcher(["abc", "b"])
    assert matcher.push("abc") == "a"
    assert matcher.matched == "b"
    assert matcher.push("more") == ""
    assert matcher.flush() == ""


@pytest.mark.parametrize(("stops", "shown"), [(["ab", "b"], ""), (["b", "ab"], "a")])
def test_ties_go_by_list_order(stops, shown):
    matcher = StopMatcher(stops)
    assert matcher.push("ab") == shown
    assert matcher.matched == stops[0]


def test_a_stop_may_span_pushes_and_is_never_shown():
    matcher = StopMatcher(["\n\nQ:"])
    assert [matcher.push(text) for text in ("A: 4\n", "\n", "Q", ": 5")] == ["A: 4", "", "", ""]
    assert matcher.matched == "\n\nQ:"


def test_include_stop_shows_the_stop_and_nothing_after_it():
    matcher = StopMatcher(["END"], include_stop=True)
    assert run(matcher, ["one E", "N", "D two"]) == "one END"


def test_only_what_may_become_a_stop_is_held_back():
    matcher = StopMatcher(["aab"])
    assert matcher.push("xaa") == "x"
    assert matcher.push("a") == "a"
    assert matcher.push("c") == "aac"
    assert matcher.push("aa") == ""
    assert matcher.flush() == "aa"
    assert matcher.matched is None


def test_without_stops_all_text_passes():
    assert StopMatcher([]).push("anything") == "anything"


@pytest.mark.parametrize("stops", [[""], ["a", ""], [3], "abc"])
def test_wrong_stops_are_refused(stops):
    with pytest.raises(RequestError):
        StopMatcher(stops)


ALPHABET = st.sampled_from(["a", "b", "é", "e\u0301", "한", "👩‍👩‍👧", "\ufffd", "\n"])
TEXTS = st.lists(ALPHABET, max_size=4).map("".join)


def allowed_from(text, stops, first):
    """The first stop string that ends behind character `first`."""
    for end in range(first + 1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TEXTS, max_size=8),
    st.lists(TEXTS.filter(bool), max_size=4),
    st.integers(0, 8),
)
def test_unicode_stops_count_only_where_they_end_in_text_that_may_stop(pushes, stops, held):
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(text, may_stop=False) for text in pushes[:held])
    before = "".join(pushes[:held])
    # Only what may still become a stop string is held back.
    tails = [before[-n:] for n in range(1, len(before) + 1)]
    longest = max(
        (len(t) for t in tails for s in stops if s.startswith(t) and len(t) < len(s)), default=0
    )
    assert shown == before[: len(before) - longest]
    shown += "".join(matcher.push(text) for text in pushes[held:]) + matcher.flush()
    want, stop = allowed_from("".join(pushes), stops, len(before))
    assert matcher.matched == stop
    assert shown == want


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    st.booleans(),
)
def test_equals_a_search_of_the_whole_text(pushes, stops, include_stop):
    matcher = StopMatcher(stops, include_stop=include_stop)
    shown, stop = reference("".join(pushes), stops, include_stop)
    assert run(matcher, pushes) == shown
    assert matcher.matched == stop
