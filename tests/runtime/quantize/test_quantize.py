"""A calibrated model: what it rounds, on what, and that it is nearer than rounding to nearest."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.quantized import QuantizedMatrix, is_quantized, quantise_params
from ferrum_jax.runtime.quantize.calibrate import _grams
from tests.runtime.models import VOCAB, model

ENGINE = fj.EngineConfig(page_size=4, num_pages=64, max_model_len=64, max_num_seqs=2,
                         max_num_batched_tokens=64)  # fmt: skip


def llm_of(kind):
    config = model(kind)
    return fj.LLM(config, init_params(config, seed=1), engine=ENGINE)


def with_large_inputs(llm):
    """A few elements of the stream are large where attention and the dense block read it."""

    def one(layer):
        larger = np.where(np.arange(64) % 21 == 0, 20.0, 1.0).astype(np.float32)
        norms = (replace(n, weight=n.weight * larger) for n in (layer.mixer_norm, layer.mlp_norm))
        return replace(layer, **dict(zip(("mixer_norm", "mlp_norm"), norms, strict=True)))

    params = replace(llm.params, layers=tuple(map(one, llm.params.layers)))
    return fj.LLM(llm.config, params, engine=ENGINE)


def texts(count, seed=0, length=40):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, length).tolist() for _ in range(count)]


def matrices(params):
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if is_quantized(leaf)}


def test_what_a_matrix_is_given_is_what_is_captured_there():
    llm, ids = llm_of("dense"), texts(2)
    grams = _grams(llm.config, llm.params, [tuple(text) for text in ids])
    assert set(grams) == {f"layer.{n}" for n in ("attention.qkv", "attention.o", "mlp.gate_up",
                                                 "mlp.down")}  # fmt: skip
    inner = [captured["mlp_post"][1] for captured in llm.capture(ids, "mlp_post", layers=1)]
    expected = sum(np.asarray(x, np.float64).T @ np.asarray(x, np.float64) for x in inner)
    np.testing.assert_allclose(grams["layer.mlp.down"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("gptq", "int4"),
        pytest.param("gptq", "int8", marks=pytest.mark.every_case),
        pytest.param("gptq", "fp8", marks=pytest.mark.every_case),
        pytest.param("awq", "int4", marks=pytest.mark.every_case),
        ("awq", "int8"),
    ],
)
def test_logits_are_nearer_than_to_nearest(method, kind):
    llm = llm_of("dense")
    if method == "awq":
        llm = with_large_inputs(llm)
    plain = fj.quantize(llm, kind=kind, method="nearest")
    found = fj.quantize(llm, texts(24), kind, method=method)
    held_out = texts(4, seed=9)

    def error(other):
        return np.mean([np.square(other.logits(t) - llm.logits(t)).mean() for t in held_out])

    assert error(found) < 0.9 * error(plain)
    assert found.engine_config.quantization == kind
    assert not matrices(llm.params)
    # And it is served as it is rounded.
    params = fj.SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
    output = found.generate([held_out[0]], params)[0].outputs[0].token_ids
    logits = found.logits(held_out[0] + output)
    assert output == logits[len(held_out[0]) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_nearest_is_what_the_engine_does(kind):
    llm = llm_of("moe")
    found = matrices(fj.quantize(llm, kind=kind, method="nearest").params)
    expected = matrices(quantise_params(llm.params, kind))
    assert found.keys() == expected.keys()
    for name, matrix in found.items():
        np.testing.assert_array_equal(matrix.values, expected[name].values)
        np.testing.assert_array_equal(matrix.scales, expected[name].scales)


def test_experts_are_rounded_to_nearest_and_attention_is_calibrated():
    llm = llm_of("moe")
    found = matrices(fj.quantize(llm, texts(4), "int8").params)
    plain = matrices(quantise_params(llm.params, "int8"))
    assert found.keys() == plain.keys()
    same = {n for n in found if np.array_equal(found[n].values, plain[n].values)}
    assert same == {n for n in found if ".mlp" in n}
    assert all(isinstance(matrix, QuantizedMatrix) for matrix in found.values())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((),), fj.RequestError, "gptq needs texts"),
        (((), "int4", "awq"), fj.RequestError, "awq needs texts"),
        (([[1, 2]], "int4", "exl2"), fj.ConfigError, "method 'exl2'"),
        (([[1, 2]], "int3"), fj.ConfigError, "kind 'int3'"),
        (([[1, VOCAB]],), fj.RequestError, f"token id {VOCAB}"),
        (([[]],), fj.RequestError, "no tokens"),
    ],
)
def test_what_is_refused(arguments, error, message):
    given = dict(zip(("texts", "kind", "method"), arguments, strict=False))
    with pytest.raises(error, match=message):
        fj.quantize(llm_of("dense"), **given)


@pytest.mark.parametrize("damping", [0, -1, 2.0, True, "1"])
def test_damping_is_a_share(damping):
    with pytest.raises(fj.ConfigError, match="damping"):
        fj.quantize(llm_of("dense"), texts(1), damping=damping)


def test_weights_that_are_rounded_are_not_rounded_again():
    config = model("dense")
    engine = replace(ENGINE, quantization="int8")
    llm = fj.LLM(config, init_params(config, seed=1), engine=engine)
    with pytest.raises(fj.UnsupportedError, match="quantize changes weights"):
        fj.quantize(llm, texts(1))
