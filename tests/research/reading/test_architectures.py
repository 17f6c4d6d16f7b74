"""Readings of models whose layers have no attention, no MLP, both mixers, or other sums."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.reading import (
    activation_statistics,
    attention_patterns,
    direct_logit_attribution,
    induction_scores,
    logit_lens,
)
from tests.research.architectures import load, prompt

pytestmark = pytest.mark.every_case

CASES = {
    "qwen3_next": "gated delta and gated attention, experts with a shared one",
    "mamba": "nothing but a recurrence",
    "nemotron_h": "one block a layer",
    "falcon_h1": "attention and Mamba 2 beside each other, multipliers",
    "deepseek_v3": "latent attention",
    "cohere2": "parallel behind one norm, scaled logits",
    "gpt2": "LayerNorm with biases, learned positions",
    "minimax": "residuals from the norm, with multipliers",
    "opt_norm_after": "norms behind the sums, no final norm, projected embeddings",
    "bloom_residual_from_norm": "residuals from a norm with a bias, normed embeddings",
    "phi": "parallel, biased logits",
    "gemma4_text_moe": "experts beside the dense block, layers with a learned factor",
}


@pytest.mark.parametrize("name", CASES)
def test_the_terms_add_up_to_the_logit(name):
    llm = load(name)
    ids = prompt(llm)
    found = direct_logit_attribution(llm, ids, 5, against=(7, 11), position=6)
    logits = llm.logits(ids)[6]
    assert found.logit == pytest.approx(logits[5] - logits[[7, 11]].mean(), abs=2e-5)
    assert found.total == pytest.approx(found.logit, abs=2e-5)
    assert np.abs(found.remainder).max() < 2e-5
    for i, spec in enumerate(llm.config.layers):
        assert np.isnan(found.heads[i]).all() == (spec.attention is None)
        assert (found.mixer[i] != 0) == (spec.recurrent is not None)
        assert (found.mlp[i] != 0) == (spec.mlp is not None)


def test_a_mixer_that_is_silenced_takes_its_term_along():
    """In a pre-norm model the logit moves by the term, but for what the final norm makes of it."""
    llm = load("mamba")
    ids = prompt(llm)
    last = llm.config.num_layers - 1
    taps = fj.edits.scale("mixer_out", 0.0, layers=last)
    before = direct_logit_attribution(llm, ids, 5)
    after = direct_logit_attribution(llm, ids, 5, taps=taps)
    assert after.mixer[last] == 0
    ratio = after.embedding / before.embedding  # the final norm's other scale
    np.testing.assert_allclose(after.mixer[:last], ratio * before.mixer[:last], rtol=1e-4)
    assert after.total == pytest.approx(llm.logits(ids, taps=taps)[-1, 5], abs=2e-5)


def test_per_layer_inputs_are_the_remainder():
    llm = load("gemma4_text_hub")
    ids = prompt(llm)
    found = direct_logit_attribution(llm, ids, 5)
    cap = llm.config.final_soft_cap
    assert cap * np.tanh(found.logit / cap) == pytest.approx(llm.logits(ids)[-1, 5], abs=2e-5)
    assert found.total == pytest.approx(found.logit, abs=2e-5)
    assert np.abs(found.remainder).max() > 1e-3


def test_an_attribution_without_heads_can_be_drawn(tmp_path):
    llm = load("mamba")
    found = direct_logit_attribution(llm, prompt(llm), 5)
    assert found.heads.shape == (llm.config.num_layers, 0)
    assert "0.mixer" in found.terms
    axes = found.plot(tmp_path / "attribution.png").axes
    assert [text.get_text() for text in axes[0].get_xticklabels()][:1] == ["mixer"]


def test_patterns_are_of_the_layers_that_attend():
    llm = load("qwen3_next")
    ids = prompt(llm)
    found = attention_patterns(llm, ids)
    assert found.layers == (3,)
    np.testing.assert_allclose(found.pattern.sum(-1), 1, rtol=1e-5)
    with pytest.raises(fj.RequestError, match=r"layer 0, 1 has no site 'pattern'; .* are 3$"):
        attention_patterns(llm, ids, (0, 1, 3))
    with pytest.raises(fj.RequestError, match="no site 'pattern' in layers 0, 1, 2; this model"):
        attention_patterns(load("mamba"), ids)


def test_induction_scores_of_a_hybrid_and_of_a_model_without_attention():
    llm = load("qwen3_next")
    found = induction_scores(llm, length=5, count=2)
    assert np.isnan(found.induction).all(axis=1).tolist() == [True, True, True, False]
    assert {layer for layer, _ in found.heads(above=0.0)} == {3}
    with pytest.raises(fj.RequestError, match="no site 'pattern'"):
        induction_scores(load("mamba"), length=5, count=2)


def test_a_lens_reads_the_layers_that_have_its_site():
    llm = load("nemotron_h")
    ids = prompt(llm)
    mixers = [i for i, spec in enumerate(llm.config.layers) if spec.recurrent is not None]
    assert list(logit_lens(llm, ids, site="mixer_out").layers) == mixers
    assert logit_lens(llm, ids).kl[-1].max() < 1e-5
    feeds = next(i for i, spec in enumerate(llm.config.layers) if spec.mlp is not None)
    with pytest.raises(fj.RequestError, match=f"; 'mixer_out' is in layers {mixers[0]}"):
        logit_lens(llm, ids, layers=feeds, site="mixer_out")


def test_a_lens_without_a_final_norm():
    llm = load("opt_norm_after")
    assert llm.config.final_norm is None
    assert logit_lens(llm, prompt(llm)).kl[-1].max() < 1e-6


def test_statistics_of_states(tmp_path):
    llm = load("falcon_h1")
    ids = prompt(llm)
    found = activation_statistics(llm, [ids], ("state", "y", "z"))
    (captured,) = llm.capture([ids], "state")
    for layer, states in captured["state"].items():
        np.testing.assert_allclose(found["state"].channels[layer].mean, states.mean(0), atol=1e-6)
    outliers = found["state"].outliers(ratio=0.0)
    assert len(outliers[0][1]) == 3
    found.plot(tmp_path / "statistics.png")
    assert "state" in repr(found)
