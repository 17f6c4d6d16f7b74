"""Rounded weights through a file: the same values and scales, and the same floats."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.families import read_config
from ferrum_jax.models.families.quantization import WITH_FACTORS
from ferrum_jax.models.quantized import is_quantized, quantise_params
from ferrum_jax.models.weights.load import load_model
from ferrum_jax.models.weights.save_quantized import save_quantized
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.types import WeightError
from tests.parity.golden import load_case

KINDS = ("int4", "int8", "fp8")
CASES = ("llama", "qwen2", "phi3", "mixtral", "deepseek_v3", "falcon")
"""Projections apart, with biases, fused ones, experts, latent attention, fused by heads."""


def leaves(params):
    found = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def saved(case, kind, tmp_path):
    """A random model of a golden case, rounded and written; its config and parameters."""
    raw = load_case(case).config
    like = tmp_path / "like"
    like.mkdir()
    (like / "config.json").write_text(json.dumps(raw))
    (like / "tokenizer_config.json").write_text("{}")
    config = read_config(load_case(case).config)
    params = quantise_params(init_params(config, seed=1), kind)
    save_quantized(config, params, like, tmp_path / "out")
    return config, params, tmp_path / "out"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded_is_what_was_saved(case, kind, tmp_path):
    _, params, path = saved(case, kind, tmp_path)
    _, again = load_model(path, quantization=kind)
    before, after = leaves(params), leaves(again)
    assert before.keys() == after.keys()
    assert any(map(is_quantized, before.values()))
    for name, leaf in before.items():
        if is_quantized(leaf):
            assert after[name].values.dtype == leaf.values.dtype
            np.testing.assert_array_equal(np.asarray(after[name]), np.asarray(leaf), err_msg=name)
            assert after[name].scales.shape <= leaf.scales.shape
        else:
            np.testing.assert_array_equal(after[name], leaf, err_msg=name)
    assert (path / "tokenizer_config.json").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_factors_of_inputs_are_kept_too(case, kind, tmp_path):
    config, params, path = saved(case, kind, tmp_path)
    rng = np.random.default_rng(3)

    def with_factors(leaf):
        if not is_quantized(leaf) or leaf.values.ndim == 3:
            return leaf
        inputs = leaf.values.shape[0] * (1 + leaf.packed)
        return replace(leaf, factors=rng.uniform(0.5, 2, inputs).astype(np.float32))

    given = jax.tree.map(with_factors, params, is_leaf=is_quantized)
    save_quantized(config, given, path, tmp_path / "more")
    raw = json.loads((tmp_path / "more" / "config.json").read_text())
    assert raw["quantization_config"]["quant_method"] == WITH_FACTORS
    for quantization in (kind, None):
        again = leaves(load_model(tmp_path / "more", quantization=quantization)[1])
        for name, leaf in leaves(given).items():
            np.testing.assert_allclose(
                np.asarray(again[name]), np.asarray(leaf), rtol=1e-6, err_msg=name
            )
            if quantization and is_quantized(leaf) and leaf.factors is not None:
                np.testing.assert_array_equal(again[name].factors, leaf.factors)
                assert again[name].values.dtype == leaf.values.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_kind_it_is_floats(kind, tmp_path):
    _, params, path = saved("llama", kind, tmp_path)
    _, floats = load_model(path)
    for name, leaf in leaves(params).items():
        found = leaves(floats)[name]
        assert isinstance(found, jax.Array)
        np.testing.assert_array_equal(found, np.asarray(leaf), err_msg=name)


def test_another_kind_is_rounded_from_the_floats(tmp_path):
    _, _, path = saved("llama", "int4", tmp_path)
    _, floats = load_model(path)
    expected = leaves(quantise_params(floats, "int8"))
    for name, leaf in leaves(load_model(path, quantization="int8")[1]).items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(expected[name]), err_msg=name)


@pytest.mark.one_jax
@pytest.mark.parametrize("method", [pytest.param("gptq", marks=pytest.mark.every_case), "awq"])
def test_a_calibrated_model_comes_back_as_it_was(method, tmp_path):
    engine = fj.EngineConfig(max_num_seqs=2, max_model_len=64)
    with fj.LLM.load("demo", engine=engine) as llm:
        rounded = fj.quantize(llm, ["def main():\n    return 1\n" * 4], method=method)
        fj.save_quantized(rounded, tmp_path / "int4", like="demo")
    with fj.LLM.load(tmp_path / "int4", engine=replace(engine, quantization="int4")) as again:
        np.testing.assert_array_equal(again.logits("import"), rounded.logits("import"))
        assert again.tokenizer is not None


def test_what_is_refused(tmp_path):
    config = read_config(load_case("llama").config)
    params = init_params(config, seed=1)
    with pytest.raises(WeightError, match="name another"):
        save_quantized(config, params, DEMO_MODEL, DEMO_MODEL)
    like = tmp_path / "like"
    like.mkdir()
    (like / "config.json").write_text(json.dumps(load_case("llama").config))
    with pytest.raises(fj.UnsupportedError, match="no weight of this model is rounded"):
        save_quantized(config, params, like, tmp_path / "out")
    stacked = read_config(load_case("gpt_oss").config)
    rounded = quantise_params(init_params(stacked, seed=1), "int8")
    with pytest.raises(fj.UnsupportedError, match="is no matrix of its own"):
        save_quantized(stacked, rounded, like, tmp_path / "out")
