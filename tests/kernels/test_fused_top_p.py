"""Sampling without a sort in the interpreter, and its statement with one, against fp64 numpy."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.sampler import process_logits
from ferrum_jax.types import SamplingParams
from pallas_kernels.fused import top_p_sample
from pallas_kernels.fused.top_p import WIDTH, top_p_sample_reference
from tests.kernels.triton import allow_deprecated, needs_triton
from tests.sampler.batch import ROWS, SLOTS, VOCAB, lengths_of, make_state

pytestmark = allow_deprecated


class Rule(NamedTuple):
    """The parameters of a row."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


RULES = (
    Rule(),
    Rule(top_k=1),
    Rule(top_k=7, temperature=0.3),
    Rule(top_k=10**6),
    Rule(top_p=0.9),
    Rule(top_p=0.3, temperature=2.5),
    Rule(top_p=1e-30),
    Rule(top_p=0.0),
    Rule(min_p=0.1, temperature=0.7),
    Rule(min_p=1.0),
    Rule(top_k=12, top_p=0.8, min_p=0.02, temperature=1.3),
    Rule(top_k=5, top_p=0.999),
    Rule(temperature=0.0, top_k=3, top_p=0.5, min_p=0.1),
    Rule(temperature=1e-30, top_p=0.5),
)
FUNCTIONS = [
    pytest.param(
        lambda *args: top_p_sample(*args, interpret=True), id="kernel", marks=needs_triton
    ),
    pytest.param(top_p_sample_reference, id="reference"),
]
each_function = pytest.mark.parametrize("function", FUNCTIONS)


def options_of(rules) -> tuple:
    columns = [np.asarray(column) for column in zip(*rules, strict=True)]
    return tuple(
        jnp.asarray(x, dtype)
        for x, dtype in zip(columns, ("float32", "int32", "float32", "float32"), strict=True)
    )


def draw(function, logits, gumbel, rules) -> np.ndarray:
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, gumbel))
    return np.asarray(function(*arrays, *options_of(rules)))


def kept(logits: np.ndarray, rule: Rule) -> np.ndarray:
    """bool [V] in fp64; all that equal a cut are kept."""
    x, V = np.asarray(logits, np.float64), len(logits)
    keep, mass = np.ones(V, bool), np.exp((x - x.max()) / (rule.temperature or 1.0))
    order = np.argsort(-x, kind="stable")
    if 0 < rule.top_k < V:
        keep = x >= x[order[rule.top_k - 1]]
    if rule.top_p < 1:
        reached = np.cumsum(np.where(keep, mass, 0)[order])
        keep &= x >= x[order[np.sum(reached[:-1] < rule.top_p * reached[-1])]]
    return keep & (mass >= rule.min_p)


def wanted(logits: np.ndarray, gumbel: np.ndarray, rule: Rule) -> int:
    """The token in fp64."""
    if rule.temperature == 0:
        return int(np.argmax(logits))
    x = np.asarray(logits, np.float64)
    scores = (x - x.max()) / rule.temperature + np.asarray(gumbel, np.float64)
    return int(np.argmax(np.where(kept(logits, rule), scores, -np.inf)))


def kept_by(function, logits: np.ndarray, rule: Rule) -> np.ndarray:
    """Which tokens a function draws when the noise is all for them; bool [V]."""
    V = len(logits)
    drawn = draw(function, np.tile(logits, (V, 1)), np.eye(V) * 1e9, [rule] * V)
    return drawn == np.arange(V)


def random_rows(rows: int, vocab: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, rows, vocab])
    logits = (rng.normal(size=(rows, vocab)) * 3).astype(np.float32)
    return logits, rng.gumbel(size=(rows, vocab)).astype(np.float32)


@each_function
@pytest.mark.parametrize("vocab", [1, 37, 512, WIDTH + 100])
def test_the_token_matches_fp64(function, vocab):
    logits, gumbel = random_rows(len(RULES), vocab)
    got = draw(function, logits, gumbel, RULES)
    want = [wanted(*row) for row in zip(logits, gumbel, RULES, strict=True)]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int32


@each_function
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.temperature > 1e-9])
def test_exactly_the_tokens_that_the_rule_keeps_are_drawn(function, rule):
    for seed in range(3):
        logits = random_rows(1, 40, seed)[0][0]
        np.testing.assert_array_equal(kept_by(function, logits, rule), kept(logits, rule))


@each_function
def test_all_that_equal_a_cut_are_kept(function):
    logits = np.array([0, 1, -2, 1, 1, 2, -0.0, 0, -2], np.float32)
    two, ones, zeros = (np.equal(logits, value) for value in (2, 1, 0))
    for rule, want in (
        (Rule(top_k=2), two | ones),
        (Rule(top_k=5), two | ones | zeros),
        (Rule(top_p=0.5), two | ones),
        (Rule(top_k=2, top_p=0.9), two | ones),
        (Rule(top_p=0.1), two),
    ):
        np.testing.assert_array_equal(kept_by(function, logits, rule), want)


@each_function
def test_what_the_sampler_keeps_is_kept_and_beyond_it_only_ties(function):
    rules = RULES[1:3] + RULES[4:6] + RULES[8:12]
    params = [SamplingParams(**rule._asdict()) for rule in rules]
    for rounded in (False, True):
        logits = random_rows(ROWS, VOCAB)[0]
        logits = np.round(logits) if rounded else logits
        state = make_state(params)
        processed = process_logits(jnp.asarray(logits), state, SLOTS, lengths_of(0))
        for row, rule, left in zip(logits, rules, np.asarray(processed), strict=True):
            mine, theirs = kept_by(function, row, rule), left > -np.inf
            assert np.all(mine | ~theirs)
            if rounded:
                assert np.all(row[mine & ~theirs] == row[theirs].min())
            else:
                np.testing.assert_array_equal(mine, theirs)


@each_function
def test_equal_scores_give_the_lowest_id(function):
    logits, nothing = np.array([[1, 3, 3, -1, 3]] * 3, np.float32), np.zeros((3, 5))
    rules = [Rule(temperature=0.0), Rule(), Rule(top_p=0.5)]
    np.testing.assert_array_equal(draw(function, logits, nothing, rules), [1, 1, 1])


@each_function
def test_greedy_rows_do_not_read_the_noise(function):
    logits, gumbel = random_rows(2, 50)
    got = draw(function, logits, gumbel * np.nan, [Rule(temperature=0.0)] * 2)
    np.testing.assert_array_equal(got, np.argmax(logits, axis=1))


@each_function
def test_forbidden_tokens_and_nan_are_never_drawn(function):
    logits, gumbel = random_rows(3, 40)
    logits[:, ::2], logits[:, 1::4] = -np.inf, np.nan
    gumbel[:, ::2] = gumbel[:, 1::4] = 1e9
    for rule in (Rule(), Rule(top_k=30), Rule(top_p=0.99999), Rule(temperature=0.0)):
        drawn = draw(function, logits, gumbel, [rule] * 3)
        assert np.all(np.isfinite(logits[np.arange(3), drawn]))


@each_function
def test_a_row_without_any_logit_gives_some_token(function):
    logits = np.full((3, 20), -np.inf)
    rules = [Rule(temperature=0.0), Rule(top_k=4), Rule(top_p=0.5)]
    drawn = draw(function, logits, random_rows(3, 20)[1], rules)
    assert np.all((drawn >= 0) & (drawn < 20))


@needs_triton
def test_a_row_does_not_depend_on_its_neighbours():
    logits, gumbel = random_rows(6, 300)
    rules = [Rule(top_k=40, top_p=0.9, temperature=0.5 + index) for index in range(6)]
    together = draw(FUNCTIONS[0].values[0], logits, gumbel, rules)
    for index in range(6):
        at = slice(index, index + 1)
        alone = draw(FUNCTIONS[0].values[0], logits[at], gumbel[at], rules[at])
        assert together[index] == alone[0]


@pytest.mark.parametrize("function", [top_p_sample, top_p_sample_reference])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": jnp.zeros(9)}, r"logits is \(9,\); it must have 2 dimensions, none empty"),
        ({"logits": jnp.zeros((2, 0))}, "none empty"),
        ({"logits": jnp.zeros((2, 9), jnp.bfloat16)}, "logits is bfloat16; cast it to float32"),
        ({"gumbel": jnp.zeros((2, 8))}, r"gumbel is \(2, 8\); beside logits \(2, 9\) it must be"),
        ({"temperature": jnp.zeros(3)}, r"temperature is \(3,\); .* it must be \(2,\)"),
        ({"top_k": jnp.zeros(2)}, "top_k is float32; cast it to int32"),
        ({"top_p": jnp.zeros(2, jnp.int32)}, "top_p is int32; cast it to float32"),
        ({"min_p": jnp.zeros((2, 1))}, r"min_p is \(2, 1\); .* it must be \(2,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(function, changes, message):
    given = {name: jnp.zeros((2, 9)) for name in ("logits", "gumbel")}
    given |= dict(zip(Rule._fields, options_of([Rule()] * 2), strict=True))
    with pytest.raises(ValueError, match=message):
        function(**given | changes)
