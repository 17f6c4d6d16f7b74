"""Integrated gradients: completeness, a case that can be done by hand, and wrong arguments."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research.gradients import integrated_gradients
from tests.research.gradients.models import CONFIG, ENGINE, PROMPT, metric, random

OTHER = [3, 14, 2, 9, 1, 5]


@pytest.fixture(scope="module")
def dense():
    """Without experts: the metric is smooth along a line."""
    config = replace(CONFIG, layers=CONFIG.layers[:1] * 2)
    params = init_params(config, seed=2)
    return fj.LLM(config, params.replace(embed=params.embed * 50), engine=ENGINE)


@pytest.mark.parametrize(
    ("baseline", "site", "layer"),
    [
        (None, "resid_pre", 0),
        (OTHER, "resid_pre", 0),
        (random(16), "resid_pre", 0),
        (random(6, 16), "resid_mid", 0),
        (OTHER, "z", 1),
    ],
    ids=["mean", "prompt", "vector", "array", "heads"],
)
def test_the_shares_add_up_to_the_change_of_the_metric(dense, baseline, site, layer):
    found = integrated_gradients(
        dense, PROMPT, metric, baseline=baseline, site=site, layer=layer, steps=24
    )
    change = found.metric - found.baseline_metric
    assert abs(change) > 1e-2
    np.testing.assert_allclose(found.shares.sum(), change, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(found.error, found.shares.sum() - change, atol=1e-6)
    sums = found.elements.reshape(6, -1).sum(axis=1)
    np.testing.assert_allclose(found.shares, sums, atol=1e-6)


def test_a_baseline_prompt_is_its_own_run(llm):
    found = integrated_gradients(llm, PROMPT, metric, baseline=OTHER, steps=8)
    np.testing.assert_allclose(found.metric, metric(llm.logits(PROMPT)), atol=1e-5)
    np.testing.assert_allclose(found.baseline_metric, metric(llm.logits(OTHER)), atol=1e-5)
    same = np.asarray(PROMPT) == np.asarray(OTHER)
    np.testing.assert_array_equal(found.shares[same], 0)
    assert np.abs(found.shares[~same]).min() > 1e-4


def test_a_square_of_a_logit_by_hand(llm):
    """The integral of `2 (x - b) (b + a (x - b))` over a is `x^2 - b^2`; one step is exact."""
    x, b = llm.logits(PROMPT), random(37)
    found = integrated_gradients(
        llm, PROMPT, lambda y: y[-1, 7] ** 2 - 3 * y[1, 4], site="logits", baseline=b, steps=1
    )
    expected = np.zeros(6)
    expected[-1] = x[-1, 7] ** 2 - b[7] ** 2
    expected[1] = -3 * (x[1, 4] - b[4])
    np.testing.assert_allclose(found.shares, expected, rtol=1e-4, atol=1e-5)


def test_edits_hold_along_the_whole_line(llm):
    taps = fj.edits.ablate_layer([0, 1])
    found = integrated_gradients(llm, PROMPT, metric, taps=taps, steps=24)
    np.testing.assert_allclose(found.metric, metric(llm.logits(PROMPT, taps=taps)), atol=1e-5)
    np.testing.assert_array_equal(found.shares[:-1], 0)
    assert abs(found.error) < 1e-2 * abs(found.shares[-1])


def test_it_can_be_read_and_drawn(llm, tmp_path):
    found = integrated_gradients(
        llm, PROMPT, lambda y: jax.nn.log_softmax(y[-1])[3], baseline=OTHER, steps=2
    )
    assert "'26'" in repr(found)
    assert "off by" in repr(found)
    ax = found.plot(tmp_path / "shares.png").axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], found.shares)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(map(str, PROMPT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; give a number from 1"),
        ({"baseline": [1, 2]}, "the baseline has 2 tokens and the prompt 6"),
        ({"baseline": np.zeros(5)}, r"the baseline has shape \(5,\).*takes \(6, 16\), or \(16,\)"),
        ({"site": "pattern"}, "choose 'z'"),
        ({"layer": 4}, "layer 4 does not exist"),
    ],
)
def test_wrong_arguments_say_so(llm, change, message):
    with pytest.raises(fj.RequestError, match=message):
        integrated_gradients(llm, PROMPT, metric, **change)
