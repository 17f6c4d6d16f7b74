"""Weights that stay rounded: the model that they stand for, in every kind of layer."""

from __future__ import annotations

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.quantized import (
    QuantizedMatrix,
    flat_shape,
    is_quantized,
    quantise,
    quantise_params,
    quantises,
)
from ferrum_jax.models.shapes import flatten_shapes, path_name
from ferrum_jax.runtime.memory import weight_bytes
from ferrum_jax.types import DataType
from tests.parity.golden import KINDS, case_names, load_case, write_checkpoint

SETTINGS = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "max_model_len": 64}
ENGINE = fj.EngineConfig(**SETTINGS, quantization="int8")
BOTH = sorted({*KINDS, "qwen2_moe", "llama4_text", "deepseek_v3", "granitemoehybrid", "bamba"})
"""Model types with every kind of layer, and with experts of several kinds."""


def stood_for(params):
    """The parameters with every rounded matrix as the floats that it stands for."""
    return jax.tree.map(
        lambda leaf: jax.numpy.asarray(np.asarray(leaf)) if is_quantized(leaf) else leaf,
        params,
        is_leaf=is_quantized,
    )


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        *((name, "int8") for name in BOTH),
        *((name, kind) for name in ("llama", "gpt_oss", "deepseek_v3") for kind in ("fp8", "int4")),
    ],
)
def test_logits_are_those_of_the_rounded_weights(model_type, kind, tmp_path):
    """Layout of every projection: a scale at the wrong axis would show."""
    golden = load_case(case_names(model_type)[0])
    directory = write_checkpoint(golden, tmp_path)
    engine = fj.EngineConfig(**SETTINGS, quantization=kind)
    with fj.LLM.load(directory, engine=engine) as llm:
        leaves = jax.tree_util.tree_leaves_with_path(llm.params, is_leaf=is_quantized)
        rounded = {path_name(path) for path, leaf in leaves if is_quantized(leaf)}
        assert rounded == {name for name in flatten_shapes(llm.config) if quantises(name)}
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(llm.params))
        assert held == weight_bytes(llm.config, DataType.FLOAT32, kind)
        prompt = golden.prompt.tolist()[:16]
        found = llm.logits(prompt)
        floats = fj.LLM(llm.config, stood_for(llm.params))
        expected = floats.logits(prompt)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=2e-5 * max(1.0, scale))
        params = fj.SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, logprobs=0)
        output = llm.generate([prompt], params)[0].outputs[0]
        whole = llm.logits(prompt + output.token_ids)
        logs = whole - np.log(np.exp(whole - whole.max(1, keepdims=True)).sum(1, keepdims=True))
        logs -= whole.max(1, keepdims=True)
        for i, (table, token) in enumerate(zip(output.logprobs, output.token_ids, strict=True)):
            assert abs(table[token].logprob - logs[len(prompt) - 1 + i, token]) < 2e-4


def test_a_weight_is_rounded_to_the_nearest_of_255(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 3, 5)).astype(np.float32)
    weights[:, 1, 2] = 0  # A channel of zeros keeps a scale of its own.
    matrix = quantise("layers.0.attention.qkv", weights, "float32")
    assert matrix.values.dtype == np.int8
    assert matrix.shape == (40, 3, 5)
    assert matrix.scales.shape == (15,)
    step = np.abs(weights).max(axis=0) / 127
    assert np.all(np.abs(np.asarray(matrix) - weights) <= step / 2 + 1e-7)
    assert np.all(np.asarray(matrix)[:, 1, 2] == 0)
    x = rng.normal(size=(7, 40)).astype(np.float32)
    product = jax.numpy.asarray(x) @ matrix.reshape(40, -1)
    np.testing.assert_allclose(
        product, x @ np.asarray(matrix).reshape(40, -1), rtol=1e-5, atol=1e-5
    )


def test_fp8_is_the_nearest_number_of_e4m3():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 5)).astype(np.float32)
    weights[:, 2] = 0
    matrix = quantise("layers.0.mlp.down", weights, "float32", "fp8")
    numbers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    scales = np.abs(weights).max(axis=0) / 448
    for i, o in np.ndindex(weights.shape):
        nearest = np.abs(numbers * scales[o] - weights[i, o]).min()
        assert abs(np.asarray(matrix)[i, o] - weights[i, o]) <= nearest + 1e-6


@pytest.mark.parametrize(("inputs", "group"), [(128, 32), (96, 16), (112, 8)])
def test_int4_has_sixteen_steps_for_each_group(inputs, group):
    """Input i in the low half of byte i, input I / 2 + i in the high half, stated one by one."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(inputs, 5)).astype(np.float32)
    weights[:group, 1] = 0
    matrix = quantise("layers.0.mlp.down", weights, "float32", "int4")
    assert matrix.packed
    assert matrix.values.shape == (inputs // 2, 5)
    assert matrix.scales.shape == (inputs // group, 5)
    meant = np.empty_like(weights)
    for i, o in np.ndindex(weights.shape):
        byte = int(matrix.values[i % (inputs // 2), o])
        step = (byte & 15 if i < inputs // 2 else byte >> 4) - 8
        meant[i, o] = step * matrix.scales[i // group, o]
    np.testing.assert_array_equal(np.asarray(matrix), meant)
    # The largest of a group is met, what stands opposite to it may be cut by one step.
    for g, o in np.ndindex(matrix.scales.shape):
        part, held = (x[g * group : (g + 1) * group, o] for x in (weights, meant))
        top = np.abs(part).argmax()
        assert held[top] == pytest.approx(part[top], rel=1e-6)
        step = abs(matrix.scales[g, o])
        within = np.abs(part - held) <= step / 2 + 1e-6
        assert np.all(within | (part * np.sign(part[top]) < -7 * step))
    x = rng.normal(size=(7, inputs)).astype(np.float32)
    product = jax.numpy.asarray(x) @ jax.device_put(matrix)
    np.testing.assert_allclose(product, x @ meant, rtol=1e-5, atol=1e-4)


def test_inputs_that_no_group_divides_are_int8():
    matrix = quantise("layers.0.mlp.down", np.ones((40, 5), np.float32), "float32", "int4")
    assert matrix.values.dtype == np.int8
    assert np.all(np.asarray(matrix) == pytest.approx(1))


@pytest.mark.parametrize(
    ("path", "shape", "flat"),
    [
        ("layers.0.attention.qkv", (8, 2, 4, 3), (8, 24)),
        ("layers.0.attention.o", (4, 3, 8), (12, 8)),
        ("layers.0.mlp.gate_up", (8, 2, 10), (8, 20)),
        ("layers.0.mlp.down", (10, 8), (10, 8)),
        ("layers.0.mlp.down", (6, 10, 8), (6, 10, 8)),
        ("layers.0.mlp.shared.gate_up", (8, 2, 10), (8, 20)),
        ("layers.0.experts_beside.up", (6, 8, 10), (6, 8, 10)),
    ],
)
def test_inputs_and_outputs_are_told_apart(path, shape, flat):
    assert quantises(path)
    assert flat_shape(path, shape) == flat


@pytest.mark.parametrize(
    "path",
    ["embed", "unembed", "final_norm.weight", "layers.0.mlp.router", "layers.0.attention.kv_up",
     "layers.0.attention.qkv_bias", "layers.0.recurrent.o", "layers.0.per_layer_input.gate"],
)  # fmt: skip
def test_what_is_not_rounded(path):
    assert not quantises(path)


@pytest.fixture(scope="module")
def demo():
    with fj.LLM.load("demo", engine=ENGINE) as llm:
        yield llm


@pytest.mark.every_case
def test_the_demo_model_hardly_moves(demo):
    """The figures that int8 weights are allowed to cost, on the text of this test."""
    engine = fj.EngineConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=256)
    with fj.LLM.load("demo", engine=engine) as plain:
        source = Path(__file__).read_text()
        pieces = [source[i : i + 500] for i in range(0, 5000, 500)]
        texts = [plain.encode(piece) for piece in pieces]
        kls, same = [], []
        for ids in texts:
            p = jax.nn.log_softmax(plain.logits(ids))
            q = jax.nn.log_softmax(demo.logits(ids))
            kls.append(np.asarray((np.exp(p) * (p - q)).sum(axis=1)))
            same.append(np.asarray(p.argmax(1) == q.argmax(1)))
    assert np.concatenate(kls).mean() < 2.4e-4
    assert np.concatenate(same).mean() >= 0.985


def test_bits_do_not_depend_on_the_batch():
    engine = fj.EngineConfig(
        max_num_seqs=4, max_num_batched_tokens=32, max_model_len=96, quantization="int8",
        batch_invariant=True, speculative="ngram",
    )  # fmt: skip
    params = fj.SamplingParams(max_tokens=10, seed=3, logprobs=0, ignore_eos=True)
    with fj.LLM.load("demo", engine=engine) as llm:
        prompts = [[5, 6, 7], [9] * 20, [11, 12]]
        alone = [llm.generate([p], params)[0].outputs[0] for p in prompts]
        together = [o.outputs[0] for o in llm.generate(prompts, params)]
        assert [c.token_ids for c in together] == [c.token_ids for c in alone]
        assert [c.logprobs for c in together] == [c.logprobs for c in alone]


def test_rounded_parameters_stay_as_they_are(demo):
    again = fj.LLM(demo.config, demo.params, demo.tokenizer, engine=ENGINE)
    assert all(
        a is b
        for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(demo.params), strict=True)
    )
    assert quantise_params(demo.params).layers[0].mlp.down is demo.params.layers[0].mlp.down
    assert isinstance(demo.params.layers[0].mlp.down, QuantizedMatrix)


def test_edits_and_captures_work_as_ever(demo):
    ids = demo.encode("The for statement")
    (found,) = demo.capture([ids], "resid_post")
    assert found["resid_post"][5].shape == (len(ids), 256)
    params = fj.SamplingParams(max_tokens=4, temperature=0)
    taps = fj.edits.ablate_layer(2)
    edited = demo.generate([ids, ids], params, taps=[taps, None])
    assert edited[1].outputs[0].token_ids == demo.generate([ids], params)[0].outputs[0].token_ids


def test_gradients_go_through(tmp_path):
    """To the activations, through experts too."""
    directory = write_checkpoint(load_case(case_names("mixtral")[0]), tmp_path)
    with fj.LLM.load(directory, engine=ENGINE) as llm:
        floats = fj.LLM(llm.config, stood_for(llm.params))
        found, expected = (
            fj.gradients.activation_gradients(
                model, [5, 9, 3, 7, 4], lambda logits: logits[-1, 5], "resid_post"
            ).gradients["resid_post"]
            for model in (llm, floats)
        )
    for layer, gradient in expected.items():
        np.testing.assert_allclose(found[layer], gradient, atol=1e-4)
        assert np.abs(gradient).max() > 1e-3


def test_what_changes_weights_is_refused(demo):
    with pytest.raises(fj.UnsupportedError, match="load the model without quantization"):
        fj.fit(demo, fj.LoRA(rank=2), ["def main():"] * 2, steps=1, learning_rate=0.1)


def test_another_name_is_refused():
    with pytest.raises(
        fj.ConfigError, match="quantization is 'int3'; choose int8, fp8, int4 or None"
    ):
        fj.EngineConfig(quantization="int3")
