"""Gradients to what recurrent mixers hold, and fits into models with other embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.gradients import (
    activation_gradients,
    attribution_patching,
    integrated_gradients,
)
from tests.research.architectures import load, prompt

pytestmark = pytest.mark.every_case


def metric(logits):
    return logits[-1, 5] - logits[-1, 7]


def test_a_gradient_inside_a_mixer_is_what_a_small_change_does():
    llm, site = load("falcon_h1"), "state"
    ids = prompt(llm, 6)
    found = activation_gradients(llm, ids, metric, site, 0)
    assert found.metric == pytest.approx(metric(llm.logits(ids)), abs=1e-5)
    gradient = found.gradients[site][0][2]
    direction = (gradient / np.linalg.norm(gradient)).astype(np.float32)
    step = 0.02

    def at(scale):
        taps = fj.edits.steer(direction, 0, scale, positions=[2], site=site)
        return metric(llm.logits(ids, taps=taps))

    slope = (at(step) - at(-step)) / (2 * step)
    assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=2e-2)


def test_patches_of_states_are_estimated_by_head():
    llm = load("falcon_h1")
    ids, other = prompt(llm, 6), prompt(llm, 6, seed=4)
    found = attribution_patching(llm, ids, other, metric, ("state", "mixer_out"), layers=(0, 1))
    heads = llm.config.layers[0].recurrent.num_heads
    assert found.effects["state"].shape == (2, 6, heads)
    assert found.effects["mixer_out"].shape == (2, 6)
    assert np.abs(found.effects["state"][:, -1]).max() == 0  # nothing follows the last token
    assert np.abs(found.by_head("state")).min() > 0


def test_shares_along_a_line_of_states_add_up():
    llm = load("falcon_h1")
    ids = prompt(llm, 6)
    found = integrated_gradients(llm, ids, metric, site="state", steps=6)
    assert abs(found.error) < 2e-2 * np.abs(found.shares).max()


def test_the_loss_has_the_same_gradient_with_less_memory():
    llm = load("minimax")
    tokens = jnp.asarray(prompt(llm, 6))
    kept, anew = (
        jax.grad(lambda p, remat=remat: fj.loss(p, tokens, config=llm.config, remat=remat))(
            llm.params
        )
        for remat in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), kept, anew)
    assert float(jnp.abs(kept.layers[0].mixer_norm.weight).max()) > 0


def test_a_soft_prompt_starts_at_what_enters_the_first_layer():
    """Positions and the projection of the embeddings included: it changes nothing yet."""
    llm = load("opt_norm_after")
    ids = prompt(llm)
    soft = fj.SoftPrompt(length=3, text=tuple(ids[:3]))
    taps = soft.taps(soft.init(llm, 0))
    logits = llm.logits([0, 0, 0, *ids[3:]], taps=taps)
    np.testing.assert_allclose(logits, llm.logits(ids), atol=1e-5)
