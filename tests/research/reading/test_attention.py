"""Attention patterns against numpy: grouped heads, windows, the orders asked for."""

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research import edits
from ferrum_jax.research.reading import attention_patterns
from tests.research.reading import reference

IDS = reference.prompt(20)


@pytest.mark.parametrize("kind", ["dense", "windowed", "layer norm, biases"])
def test_patterns_are_numpys(kind):
    llm = reference.make_llm(kind)
    found = attention_patterns(llm, IDS)
    assert found.pattern.shape == (llm.config.num_layers, 4, 20, 20)
    np.testing.assert_allclose(found.pattern, reference.run(llm, IDS).pattern, atol=1e-5)
    np.testing.assert_allclose(found.pattern.sum(-1), 1, atol=1e-5)
    if kind == "windowed":
        assert (found.pattern[0, :, 10, :6] == 0).all()


@pytest.fixture(scope="module")
def llm():
    return reference.make_llm("windowed")


def test_layers_and_heads_in_the_order_asked_for(llm):
    whole = attention_patterns(llm, IDS).pattern
    some = attention_patterns(llm, IDS, layers=(1, 0), heads=(3, 1))
    assert (some.layers, some.heads) == ((1, 0), (3, 1))
    np.testing.assert_allclose(some.pattern, whole[[1, 0]][:, [3, 1]], atol=1e-6)
    one = attention_patterns(llm, IDS, layers=1, heads=2)
    np.testing.assert_allclose(one.pattern, whole[1:, 2:3], atol=1e-6)


def test_an_edited_model(llm):
    other = attention_patterns(llm, reference.prompt(20, seed=1)).pattern[1].transpose(1, 0, 2)
    found = attention_patterns(llm, IDS, taps=edits.freeze_attention(other, 1))
    np.testing.assert_allclose(found.pattern[1], other.transpose(1, 0, 2), atol=1e-6)
    np.testing.assert_allclose(found.pattern[0], attention_patterns(llm, IDS).pattern[0], atol=1e-6)


def test_heads_that_only_some_layers_have():
    narrow = replace(
        reference.DENSE, attention=replace(reference.ATTENTION, num_heads=2, num_kv_heads=1)
    )
    config = replace(reference.make_llm("dense").config, layers=(narrow, reference.DENSE))
    llm = fj.LLM(config, init_params(config))
    assert attention_patterns(llm, IDS, heads=1).pattern.shape == (2, 1, 20, 20)
    with pytest.raises(fj.RequestError, match=r"differ in their heads \({0: 2, 1: 4}\)"):
        attention_patterns(llm, IDS)
    with pytest.raises(fj.RequestError, match="head 2 does not exist; layer 0 has heads 0 to 1"):
        attention_patterns(llm, IDS, heads=(1, 2))


def test_the_table_and_the_figure(llm, tmp_path):
    found = attention_patterns(llm, IDS)
    assert len(repr(found).splitlines()) == 2 + 8
    figure = found.plot(tmp_path / "patterns.png")
    images = [ax.images[0] for ax in figure.axes if ax.get_title()]
    assert len(images) == 8
    np.testing.assert_allclose(images[6].get_array(), found.pattern[1, 2])
    assert "first 3 of 8" in found.plot(max_panels=3).get_suptitle()
    with pytest.raises(fj.RequestError, match="max_panels is 0"):
        found.plot(max_panels=0)
    with pytest.raises(fj.RequestError, match="heads is empty"):
        attention_patterns(llm, IDS, heads=())
