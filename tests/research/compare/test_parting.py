"""Where two models part, against activations of dense forwards."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research.compare import compare
from ferrum_jax.research.compare.parting import SITES, Parting, measure_parting, rounding_threshold
from ferrum_jax.research.compare.side import ModelSide
from tests.research.compare.conftest import CONFIG, WEIGHTS, make_documents, make_llm

DENSE = tuple(site for site in SITES if site != "mixer_out")
"""Those of models without recurrent layers."""


@jax.jit
def dense(weights, tokens):
    _, _, found = fj.forward_capture(
        weights, tokens, jnp.arange(len(tokens)), None,
        config=CONFIG, attend=fj.dense_attention, taps=fj.Taps(capture=DENSE),
    )  # fmt: skip
    return found


def test_errors_are_those_of_dense_activations(llm, other):
    documents = make_documents(23, 23)
    found = measure_parting(ModelSide(llm), ModelSide(other), documents)
    assert found.tokens == sum(map(len, documents))
    pairs = [
        (dense(WEIGHTS, jnp.asarray(ids)), dense(other.params, jnp.asarray(ids)))
        for ids in documents
    ]
    for site, errors in zip(found.sites, found.errors, strict=True):
        for layer, error in enumerate(errors):
            a, b = (
                np.concatenate([np.asarray(pair[i][site][layer], np.float64) for pair in pairs])
                for i in (0, 1)
            )
            expected = np.linalg.norm(b - a) / np.linalg.norm(a)
            assert error == pytest.approx(expected, rel=1e-4), (site, layer)


def test_the_first_place_is_the_edited_one(llm, documents):
    edit = fj.edits.ablate_heads([(1, 2)])
    found = compare(llm, (llm, edit), documents, resamples=20).parting
    assert found.first == (1, "attn_out")
    errors = dict(zip(found.sites, found.errors, strict=True))
    assert errors["resid_pre"] == (0, 0)
    assert errors["attn_out"][0] == 0 < errors["attn_out"][1]


def test_rounding_is_no_parting(llm, documents):
    """The same model in other steps."""
    found = measure_parting(
        ModelSide(llm), ModelSide(make_llm(max_num_batched_tokens=32)), documents
    )
    assert np.asarray(found.errors).max() < found.threshold
    assert found.first is None


def test_the_threshold_follows_the_coarser_weights(llm):
    coarse = ModelSide(make_llm(init_params(CONFIG, seed=3, dtype="bfloat16")))
    assert rounding_threshold(ModelSide(llm), ModelSide(llm)) == pytest.approx(6.4e-6, rel=0.02)
    assert rounding_threshold(ModelSide(llm), coarse) == pytest.approx(0.0263, rel=0.02)


def test_the_order_is_that_of_computation():
    errors = ((0.0, 0.5), (0.0, 0.0), (0.2, 0.0), (0.3, 0.0))
    assert Parting(DENSE, errors, 0.1, 1).first == (0, "mlp_out")
    assert Parting(DENSE, errors, 0.25, 1).first == (0, "resid_post")
    assert Parting(DENSE, errors, 0.4, 1).first == (1, "resid_pre")
    assert Parting(DENSE, errors, 0.5, 1).first is None


def test_long_documents_are_cut(llm, monkeypatch, documents):
    monkeypatch.setattr("ferrum_jax.research.compare.parting.MOST_TOKENS", 30)
    assert measure_parting(ModelSide(llm), ModelSide(llm), documents).tokens == 30


def test_models_of_other_shapes_are_compared_without(llm):
    config = replace(CONFIG, layers=CONFIG.layers[:1])
    found = compare(llm, make_llm(init_params(config, seed=3), config), [[1, 2, 3]], resamples=20)
    assert found.parting is None
    assert found.parting_note == "the models have other shapes, 2 layers of 64 and 1 of 64"
    assert "layers 2 -> 1" in found.differences[-1]


def test_a_threshold_may_be_given(llm, other, documents):
    found = compare(llm, other, documents, parting=1e9, resamples=20).parting
    assert found.threshold == 1e9
    assert found.first is None
