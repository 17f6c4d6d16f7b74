"""`SamplingParams` refuses what it cannot run, before anything is scheduled or allocated."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrum_jax.types import FerrumError, RequestError, SamplingParams, UnsupportedError

NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "tfs_z",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, np.float32(np.nan), 10**400],
    ids=["nan", "inf", "-inf", "numpy nan", "overflow"],
)
def test_numbers_that_are_not_finite_are_refused(name, value):
    with pytest.raises(RequestError, match=f"{name} is .*finite"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", 1.0001),
        ("top_k", -2),
        ("top_k", 3.0),
        ("top_k", np.float64(3)),
        ("min_p", 1.5),
        ("min_p", -0.1),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", None),
        ("n", 0),
        ("n", 10**9),
        pytest.param("n", 10**5000, id="n-with-too-many-digits"),
        ("seed", 2**63),
        ("seed", 0.5),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("prompt_logprobs", 10**6),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-40),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("truncate_prompt_tokens", 0),
        ("stop", [""]),
        ("stop", ["a", 3]),
        ("stop", b"ab"),
        ("stop", {"a": 1}),
        ("stop", ["x"] * 65),
        ("stop_token_ids", 5),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [1.0]),
        ("stop_token_ids", np.array(3)),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [2**31]),
        ("allowed_token_ids", "12"),
        ("logprob_token_ids", list(range(129))),
        ("logit_bias", [1, 2]),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"1": 1.0}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {1: 1e300}),
        ("logit_bias", {1: None}),
        ("logit_bias", dict.fromkeys(range(129), 1.0)),
        ("ignore_eos", "no"),
        ("skip_special_tokens", 1),
        ("logprobs_mode", "cooked"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})


def test_min_tokens_above_max_tokens_is_refused():
    with pytest.raises(RequestError, match="min_tokens is 9, above max_tokens = 8"):
        SamplingParams(min_tokens=9, max_tokens=8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_tokens", 1),
        ("typical_p", 0.5),
        ("tfs_z", 0.5),
        ("mirostat", {"mode": 2}),
        ("logprob_token_ids", [1]),
        ("logprobs_mode", "processed"),
        ("bad_words", ["no"]),
        ("guided", {"regex": "a"}),
        ("logits_processors", [print]),
    ],
)
def test_what_this_version_lacks_is_refused_as_unsupported(name, value):
    with pytest.raises(UnsupportedError, match=name):
        SamplingParams(**{name: value})


def test_messages_name_value_limit_and_remain_short():
    with pytest.raises(RequestError, match=r"top_p is 1\.5; .* above 0 and at most 1"):
        SamplingParams(top_p=1.5)
    with pytest.raises(RequestError) as caught:
        SamplingParams(temperature="x" * 10_000)
    assert len(str(caught.value)) < 200


def test_numpy_numbers_become_pythons():
    params = SamplingParams(
        n=np.int64(2),
        temperature=np.float32(0.5),
        top_k=np.int32(7),
        top_p=1,
        min_p=Fraction(1, 4),
        stop_token_ids=np.array([3, 4]),
        allowed_token_ids=np.arange(5),
        logit_bias={np.int64(1): np.float32(2.0)},
    )
    assert params == SamplingParams(
        n=2,
        temperature=0.5,
        top_k=7,
        min_p=0.25,
        stop_token_ids=(3, 4),
        allowed_token_ids=(0, 1, 2, 3, 4),
        logit_bias={1: 2.0},
    )
    numbers = (params.n, params.temperature, params.top_k, params.top_p, *params.stop_token_ids)
    assert [type(number) for number in numbers] == [int, float, int, float, int, int]
    assert [(type(k), type(v)) for k, v in params.logit_bias.items()] == [(int, float)]


def test_none_stands_for_empty_collections():
    assert SamplingParams(stop=None, stop_token_ids=None, logit_bias=None) == SamplingParams()
    assert SamplingParams(allowed_token_ids=None).allowed_token_ids is None


def test_a_stop_string_and_a_list_of_one_are_equal():
    assert SamplingParams(stop="end") == SamplingParams(stop=["end"])


def test_the_callers_objects_are_not_shared():
    bias, stop = {1: 1.0}, ["a"]
    params = SamplingParams(logit_bias=bias, stop=stop)
    bias[1], stop[0] = 5.0, "b"
    assert params.logit_bias == {1: 1.0}
    assert params.stop == ("a",)


def test_params_hash_copy_pickle_and_replace_by_value():
    params = SamplingParams(temperature=0.3, logit_bias={4: -1.0}, stop="x")
    for other in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), replace(params)):
        assert other == params
        assert hash(other) == hash(params)
    with pytest.raises(RequestError, match="temperature"):
        replace(params, temperature=-1)


@pytest.mark.parametrize("name", ["stop_token_ids", "allowed_token_ids", "logit_bias"])
def test_token_ids_are_held_against_the_vocabulary(name):
    params = SamplingParams(**{name: {31: 1.0} if name == "logit_bias" else [31]})
    params.check_vocabulary(32)
    with pytest.raises(RequestError, match=f"{name} names token id 31; the vocabulary has 31"):
        params.check_vocabulary(31)


def test_presets_and_their_changes():
    assert SamplingParams.greedy().temperature == 0
    assert SamplingParams.greedy(max_tokens=3).max_tokens == 3
    creative, precise = SamplingParams.creative(), SamplingParams.precise()
    assert (creative.temperature, creative.top_p) == (1.0, 0.95)
    assert creative.repetition_penalty > 1
    assert precise.temperature < creative.temperature
    assert SamplingParams.precise(temperature=0.1).temperature == 0.1


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.one_of(st.integers(), st.text(max_size=2)), st.floats(), max_size=3),
)
FIELDS = sorted(SamplingParams.__dataclass_fields__)


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3))
def test_whatever_is_passed_only_our_errors_come_out(changes):
    try:
        params = SamplingParams(**changes)
    except FerrumError:
        return
    assert params == replace(params)
    assert params.temperature >= 0
    assert 0 < params.top_p <= 1
    assert params.max_tokens >= 1
