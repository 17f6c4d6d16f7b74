"""Two streams of pieces side by side, however each is cut."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ferrum_jax.research.compare.matching import Piece, matched

LENGTHS = {3: 17, 0: 1, 8: 9}


def pieces(seed, mixed=True):
    """Every document's tokens in random pieces, in order; the documents between one another."""
    rng = np.random.default_rng(seed)
    left = dict.fromkeys(LENGTHS, 0)
    while left:
        number = int(rng.choice(list(left))) if mixed else next(iter(left))
        start, stop = left[number], min(left[number] + int(rng.integers(1, 6)), LENGTHS[number])
        left[number] = stop
        if stop == LENGTHS[number]:
            del left[number]
        yield Piece(number, start, {"x": 100 * number + np.arange(start, stop)})


@given(st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_every_token_meets_itself_once_and_in_order(seed_a, seed_b, in_turns):
    seen = defaultdict(list)
    for a, b in matched(pieces(seed_a), pieces(seed_b), in_turns=in_turns):
        assert (a.document, a.start, a.num_tokens) == (b.document, b.start, b.num_tokens)
        np.testing.assert_array_equal(a.values["x"], b.values["x"])
        seen[a.document] += range(a.start, a.start + a.num_tokens)
        assert a.values["x"][0] == 100 * a.document + a.start
    assert seen == {number: list(range(length)) for number, length in LENGTHS.items()}


def drawn(stream, log, name):
    for piece in stream:
        log.append(name)
        yield piece


def test_in_turns_takes_from_the_one_that_is_behind():
    log = []
    streams = [drawn(pieces(seed, mixed=False), log, name) for seed, name in ((1, "a"), (2, "b"))]
    ahead = 0
    for _ in matched(*streams, in_turns=True):
        ahead = max(ahead, abs(log.count("a") - log.count("b")))
    assert log[:2] == ["a", "b"]
    assert ahead < 5


def test_otherwise_the_first_is_read_to_its_end():
    log = []
    streams = [drawn(pieces(seed), log, name) for seed, name in ((1, "a"), (2, "b"))]
    assert list(matched(*streams, in_turns=False))
    assert log == sorted(log)
