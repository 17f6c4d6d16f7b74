"""Edits of layers that are not attention and an MLP around a plain residual stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.edits import path_patch, swap
from ferrum_jax.types import RouterKind
from tests.research.architectures import ENGINE, load, prompt

pytestmark = pytest.mark.every_case


def without(llm, layer):
    """The model with one layer less."""
    kept = [i for i in range(llm.config.num_layers) if i != layer]
    config = replace(llm.config, layers=tuple(llm.config.layers[i] for i in kept))
    layers = tuple(llm.params.layers[i] for i in kept)
    return fj.LLM(config, llm.params.replace(layers=layers), engine=ENGINE)


@pytest.mark.parametrize("name", ["mamba", "minimax", "opt_norm_after", "cohere2"])
def test_an_ablated_layer_is_as_if_it_were_not_there(name):
    llm = load(name)
    ids, taps = prompt(llm), fj.edits.ablate_layer(1)
    expected = without(llm, 1).logits(ids)
    np.testing.assert_allclose(llm.logits(ids, taps=taps), expected, atol=2e-5)
    assert np.abs(llm.logits(ids) - expected).max() > 1e-3


def test_ablated_layers_are_skipped_by_the_engine_too():
    llm = load("mamba")
    ids = prompt(llm)
    params = fj.SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    found = llm.generate([ids, ids], params, taps=[None, fj.edits.ablate_layer(1)])
    plain = without(llm, 1).generate([ids], params)
    assert found[1].outputs[0].token_ids == plain[0].outputs[0].token_ids
    assert found[0].outputs[0].token_ids != found[1].outputs[0].token_ids


def test_an_ablation_acts_where_it_is_asked_to():
    llm = load("nemotron_h")
    ids = prompt(llm)
    steered = fj.edits.steer(np.ones(llm.config.hidden_size), 0)
    taps = steered + fj.edits.ablate_layer(0, positions=[2]) + fj.edits.scale("resid_post", 2.0, 0)
    (found,) = llm.capture([ids], ("resid_pre", "resid_post"), 0, taps=taps)
    before, after = found["resid_pre"][0], found["resid_post"][0]
    np.testing.assert_allclose(after[2], 2 * before[2], rtol=1e-6)
    assert np.abs(after[3] - 2 * before[3]).min(axis=-1) < np.abs(after[3]).max()
    assert np.abs(after[3] - 2 * before[3]).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "taps", "says"),
    [
        ("mamba", fj.edits.ablate_heads([(0, 0)]), "no site 'z' in layers 0; this model has"),
        ("mamba", fj.edits.ablate_mlp(), "no site 'mlp_out' in layers 0, 1, 2"),
        ("qwen3_next", fj.edits.ablate_heads([(1, 0)]), "; 'z' is in layers 3"),
        ("deepseek_v3", fj.edits.scale("v", 0.5), "no site 'v' in layers"),
        ("cohere2", fj.edits.scale("resid_mid", 0.5), "no site 'resid_mid' in layers"),
        ("gpt2", fj.edits.force_router([0]), "no site 'router' in layers"),
        ("falcon_h1", fj.edits.ablate_heads([(0, 4)]), "head 4 does not exist in layer 0"),
    ],
)
def test_what_a_layer_lacks_is_named(name, taps, says):
    llm = load(name)
    with pytest.raises(fj.RequestError, match=says):
        llm.logits(prompt(llm), taps=taps)


@pytest.mark.parametrize(("name", "site"), [("mamba", "y"), ("falcon_h1", "state")])
def test_a_patch_inside_a_mixer(name, site):
    """All of a site from another prompt, one token and one head of it."""
    llm = load(name)
    ids, other = prompt(llm), prompt(llm, seed=4)
    (theirs,) = llm.capture([other], site, 0)
    whole = fj.edits.patch(theirs[site][0][5], 0, 5, site)
    part = fj.edits.patch(theirs[site][0][5], 0, 5, site, heads=[2])
    (clean,), (all_of,), (one,) = (
        llm.capture([ids], site, 0, taps=taps) for taps in (None, whole, part)
    )
    np.testing.assert_allclose(all_of[site][0][5], theirs[site][0][5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one[site][0][5][2], theirs[site][0][5][2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one[site][0][5][0], clean[site][0][5][0], rtol=1e-5, atol=1e-6)
    swapped = llm.logits(ids, taps=swap(llm, other, 0, 5, site))
    np.testing.assert_allclose(swapped, llm.logits(ids, taps=whole), atol=1e-5)


def test_the_direct_path_of_a_head_past_recurrent_layers():
    """What arrives at the logits is the clean stream and the head's difference, nothing else."""
    llm = load("qwen3_next")
    turned = replace(llm.config, layers=llm.config.layers[::-1])
    llm = fj.LLM(turned, llm.params.replace(layers=llm.params.layers[::-1]), engine=ENGINE)
    ids, other = prompt(llm), prompt(llm, seed=4)
    sender = (0, 1)
    found = llm.logits(ids, taps=path_patch(llm, ids, other, [sender]))
    (clean,), (theirs,) = llm.capture([ids], ("z", "resid_post")), llm.capture([other], "z")
    changed = theirs["z"][0][:, 1] - clean["z"][0][:, 1]
    stream = clean["resid_post"][3] + changed @ np.asarray(llm.params.layers[0].attention.o[1])
    normed = stream / np.sqrt(np.mean(stream**2, axis=-1, keepdims=True) + llm.config.norm_eps)
    hidden = normed * (1 + np.asarray(llm.params.final_norm.weight))
    np.testing.assert_allclose(found, hidden @ np.asarray(llm.params.unembed), atol=5e-5)
    everything = llm.logits(ids, taps=swap(llm, other, 0, None, "z", heads=[1]))
    assert np.abs(found - everything).max() > 0.01


def test_paths_past_per_layer_inputs_are_refused():
    llm = load("gemma4_text_hub")
    with pytest.raises(fj.UnsupportedError, match="layer 0 ends with a block of per-layer inputs"):
        path_patch(llm, prompt(llm), prompt(llm, seed=4), [(0, 0)])


def test_a_field_that_is_a_kind_may_be_given_by_its_name():
    """Compared by identity in the forward, so that a bare string would be no kind at all."""
    llm = load("qwen3_next")
    ids = prompt(llm)
    named = fj.edit_layers(llm.config, router="sigmoid")
    assert named.layers[0].mlp.router is RouterKind.SIGMOID
    assert np.abs(llm.with_config(named).logits(ids) - llm.logits(ids)).max() > 1e-3
    with pytest.raises(fj.ConfigError, match="router is 'sigmod'; choose one of softmax"):
        fj.edit_layers(llm.config, router="sigmod")
