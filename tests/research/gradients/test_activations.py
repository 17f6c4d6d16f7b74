"""Gradients to activations against differences made by the edits of the library."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.gradients import activation_gradients, loss, probes
from tests.research.gradients.models import CONFIG, PROMPT, metric, random

SITES = ("resid_pre", "resid_mid", "resid_post", "q", "k", "v", "z", "attn_out", "mlp_out")
DENSE_SITES = ("mlp_pre", "mlp_post")
STEERED = [2, 5]
"""Tokens along which steps are taken; behind the last layer's attention only 5 counts."""


def slope_of(llm, site, layer, direction, taps=None):
    """How the metric changes with a step along a direction at some tokens."""
    step = 5e-3
    ends = []
    for sign in (-1, 1):
        layers = None if site == "logits" else layer
        edit = fj.edits.steer(sign * step * direction, layers, positions=STEERED, site=site)
        logits = llm.logits(PROMPT, taps=edit if taps is None else taps + edit)
        ends.append(float(metric(logits.astype(np.float64))))
    return (ends[1] - ends[0]) / (2 * step)


@pytest.fixture(scope="module")
def everything(llm):
    return activation_gradients(llm, PROMPT, metric, (*SITES, *DENSE_SITES, "router", "pattern"))


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        *[(site, layer) for site in SITES for layer in (0, 1)],
        *[(site, 0) for site in DENSE_SITES],
        ("router", 1),
    ],
)
def test_a_gradient_is_the_slope_of_the_metric(llm, everything, site, layer):
    gradient = everything.gradients[site][layer]
    direction = random(*gradient.shape[1:])
    expected = slope_of(llm, site, layer, direction)
    assert abs(expected) > 1e-3
    np.testing.assert_allclose((gradient[STEERED] * direction).sum(), expected, rtol=1e-2)
    is_read_by_others = layer == 0 or site in ("resid_pre", "k", "v")
    assert (np.abs(gradient[2]).max() > 1e-4) == is_read_by_others


def test_the_gradient_to_the_logits_is_the_metrics_own(llm):
    found = activation_gradients(llm, PROMPT, metric, "logits")
    np.testing.assert_array_equal(found.gradients["logits"][2][-1], np.eye(37)[7] - np.eye(37)[20])
    assert np.abs(found.gradients["logits"][2][:-1]).max() == 0


def test_what_enters_layer_0_is_the_embeddings(llm):
    """The gradient to a row of the embedding is that to its token: here each occurs once."""

    def mean_loss(logits):
        return -jax.nn.log_softmax(logits[:-1])[jnp.arange(5), jnp.asarray(PROMPT[1:])].mean()

    found = activation_gradients(llm, PROMPT, mean_loss, "resid_pre", 0)
    gradient = jax.jit(jax.grad(partial(loss, config=CONFIG)))(llm.params, jnp.asarray(PROMPT))
    expected = gradient.embed[jnp.asarray(PROMPT)]
    np.testing.assert_allclose(found.gradients["resid_pre"][0], expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


def test_values_and_shapes_are_those_of_capture(llm, everything):
    captured = llm.capture([PROMPT], sites=("resid_post", "z"))[0]
    for site, layers in captured.items():
        for layer, values in layers.items():
            np.testing.assert_allclose(everything.values[site][layer], values, atol=2e-5)
    for site, layers in everything.gradients.items():
        for layer, values in layers.items():
            assert values.shape == everything.values[site][layer].shape, site
            assert values.dtype == np.float32
    assert everything.gradients["pattern"][0].shape == (6, 4, 6)
    assert sorted(everything.gradients["mlp_pre"]) == [0]
    np.testing.assert_allclose(everything.metric, metric(llm.logits(PROMPT)), atol=1e-5)
    assert everything.tokens == tuple(map(str, PROMPT))
    assert "resid_pre.1" in repr(everything)


def test_the_gradient_to_attention_weights(llm, everything):
    """`sum_h v[s, h] dm/dz[t, n, h]`: z is the sum of the values by the weights."""
    gradient_z, v = everything.gradients["z"][0], everything.values["v"][0]
    expected = np.einsum("TNH,SNH->TNS", gradient_z, np.repeat(v, 2, axis=1))
    np.testing.assert_allclose(everything.gradients["pattern"][0], expected, atol=1e-6)


def test_edits_are_made_before_the_probe(llm):
    taps = fj.edits.scale("resid_post", 2.0, layers=0) + fj.edits.ablate_heads([(1, 0)])
    found = activation_gradients(llm, PROMPT, metric, "resid_post", 0, taps=taps)
    plain = activation_gradients(llm, PROMPT, metric, "resid_post", 0)
    twice = 2 * plain.values["resid_post"][0]
    np.testing.assert_allclose(found.values["resid_post"][0], twice, rtol=1e-5)
    direction = random(16)
    expected = slope_of(llm, "resid_post", 0, direction, taps)
    slope = (found.gradients["resid_post"][0][STEERED] * direction).sum()
    np.testing.assert_allclose(slope, expected, rtol=1e-2)
    assert abs(slope - (plain.gradients["resid_post"][0][STEERED] * direction).sum()) > 1e-2


def test_a_pair_of_config_and_weights_is_a_model(llm, everything):
    found = activation_gradients((CONFIG, llm.params), PROMPT, metric, "z", layers=1)
    np.testing.assert_allclose(found.gradients["z"][1], everything.gradients["z"][1], atol=1e-5)
    assert list(found.gradients["z"]) == [1]


def test_another_metric_or_prompt_compiles_nothing(llm):
    activation_gradients(llm, PROMPT, metric, "z")
    before = probes._pull_back._cache_size()
    activation_gradients(llm, PROMPT, lambda logits: logits[0, 0] ** 2, "z")
    activation_gradients(llm, [*PROMPT, 5, 6], lambda logits: jnp.max(logits), "z")
    assert probes._pull_back._cache_size() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": lambda logits: logits[-1]}, r"the metric returns.*\(37,\).*one float"),
        ({"metric": lambda logits: jnp.argmax(logits[-1])}, "the metric returns.*int32"),
        ({"metric": lambda logits: logits @ jnp.ones(3)}, r"the metric fails on logits \(6, 37\)"),
        ({"metric": lambda logits: float(logits[0, 0])}, "the metric fails on logits"),
        ({"sites": ()}, "sites is empty"),
        ({"sites": ("residual",)}, "'residual' is not a site"),
        ({"sites": "router", "layers": 0}, "there is no site 'router'"),
        ({"layers": 2}, "layer 2 does not exist"),
        ({"prompt": []}, "the prompt has no tokens"),
        ({"model": CONFIG}, "the model is a ModelConfig; give an fj.LLM, or a pair"),
    ],
)
def test_wrong_arguments_say_so(llm, change, message):
    arguments = {"model": llm, "prompt": PROMPT, "metric": metric, "sites": "z"} | change
    with pytest.raises(fj.RequestError, match=message):
        activation_gradients(**arguments)
