"""Checkpoints in fp8 and mxfp4 load as what their formats say, by a plain statement of each."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ferrum_jax as fj
from ferrum_jax.models.families import read_config
from ferrum_jax.models.weights.load import load_model
from tests.parity.golden import load_case, make_weights, write_checkpoint

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def write(directory, config, tensors):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def assert_same(loaded, expected):
    assert loaded[0] == expected[0]
    leaves = [jax.tree.leaves(params) for params in (loaded[1], expected[1])]
    for x, y in zip(*leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def blockwise(weight, block, rng):
    """A matrix in float8 with random factors, and what the pair stands for, number by number."""
    rows, columns = (-(-n // size) for n, size in zip(weight.shape, block, strict=True))
    factors = rng.uniform(0.001, 0.01, (rows, columns)).astype(np.float32)
    eight = (weight * 100).astype(ml_dtypes.float8_e4m3fn)
    meant = np.empty(weight.shape, np.float32)
    for i, j in np.ndindex(weight.shape):
        meant[i, j] = np.float32(eight[i, j]) * factors[i // block[0], j // block[1]]
    return eight, factors, meant


def in_fp8(name, block, *, tensor_scale=False):
    """The matrices of a case's layers in fp8, and the checkpoint that they stand for."""
    rng = np.random.default_rng(0)
    stored, meant = {}, {}
    for key, value in make_weights(load_case(name)).items():
        stored[key] = meant[key] = value
        if "layers" in key and value.ndim == 2 and not key.endswith("mlp.gate.weight"):
            whole = value.shape if tensor_scale else block
            stored[key], factors, meant[key] = blockwise(value.astype(np.float32), whole, rng)
            stored[f"{key}_scale_inv"] = factors.reshape(()) if tensor_scale else factors
    return stored, meant


@pytest.mark.parametrize("name", ["deepseek_v3_hub", "qwen3_hub", "minimax_m2_hub"])
def test_fp8_by_blocks(name, tmp_path):
    """Blocks of 16 x 24 divide no side of some matrices."""
    stored, meant = in_fp8(name, (16, 24))
    config = load_case(name).config
    quantization = FP8 | {"weight_block_size": [16, 24], "modules_to_not_convert": ["lm_head"]}
    loaded = load_model(
        write(tmp_path / "a", config | {"quantization_config": quantization}, stored)
    )
    assert_same(loaded, load_model(write(tmp_path / "b", config, meant)))


def test_fp8_by_tensors(tmp_path):
    """As Ministral 3 is published; scales of activations stay aside."""
    stored, meant = in_fp8("ministral3", None, tensor_scale=True)
    stored["model.layers.0.self_attn.q_proj.activation_scale"] = np.float32([0.5])
    config = load_case("ministral3").config
    text = config | {"model_type": "ministral3"}
    quantization = FP8 | {"activation_scheme": "static", "weight_block_size": None}
    wrapped = {"model_type": "mistral3", "text_config": text, "quantization_config": quantization}
    loaded = load_model(write(tmp_path / "a", wrapped, stored))
    assert_same(loaded, load_model(write(tmp_path / "b", config, meant)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight_scale_inv"), "has no"),
        (lambda t: t.update({"model.norm.weight_scale_inv": np.ones(1, np.float32)}), "has a"),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight_scale_inv": np.ones((1, 1), np.float32)}
            ),
            "not one for each block",
        ),
    ],
)
def test_fp8_that_does_not_fit(change, says, tmp_path):
    stored, _ = in_fp8("qwen3_hub", (16, 24))
    change(stored)
    quantization = FP8 | {"weight_block_size": [16, 24]}
    config = load_case("qwen3_hub").config | {"quantization_config": quantization}
    with pytest.raises(fj.WeightError, match=says):
        load_model(write(tmp_path, config, stored))


def mxfp4(rng, experts, rows, columns):
    """Random blocks and exponents `[E, out, in]`, and what they stand for, number by number."""
    blocks = rng.integers(0, 256, (experts, rows, columns // 32, 16), dtype=np.uint8)
    exponents = rng.integers(118, 128, (experts, rows, columns // 32), dtype=np.uint8)
    meant = np.empty((experts, columns, rows), np.float32)
    for e, row, group, byte in np.ndindex(blocks.shape):
        both = int(blocks[e, row, group, byte])
        for half, bits in enumerate((both & 15, both >> 4)):
            value = E2M1[bits & 7] * (-1 if bits & 8 else 1)
            column = group * 32 + 2 * byte + half
            meant[e, column, row] = value * 2.0 ** (int(exponents[e, row, group]) - 127)
    return blocks, exponents, meant


GPT_OSS = {"hidden_size": 64, "intermediate_size": 32}


def in_mxfp4():
    """A gpt-oss checkpoint as it is published, and the one that it stands for."""
    golden, rng = load_case("gpt_oss_hub"), np.random.default_rng(1)
    config = golden.config | {"num_hidden_layers": 2, "layer_types": None} | GPT_OSS
    config = {key: value for key, value in config.items() if value is not None}
    stored, meant = {}, {}
    for key, value in make_weights(golden).items():
        if ".layers." in key and int(key.split(".")[2]) >= 2:
            continue
        stored[key] = meant[key] = value
        experts, width, ffn = config["num_local_experts"], 64, 32
        if key.endswith("experts.gate_up_proj_bias"):
            stored[key] = meant[key] = value[:, : 2 * ffn].copy()
        elif key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            out, inner = (2 * ffn, width) if key.endswith("gate_up_proj") else (width, ffn)
            del stored[key]
            blocks, exponents, meant[key] = mxfp4(rng, experts, out, inner)
            stored |= {f"{key}_blocks": blocks, f"{key}_scales": exponents}
    return config, stored, meant


def test_mxfp4(tmp_path):
    config, stored, meant = in_mxfp4()
    assert any(name.endswith("down_proj_blocks") for name in stored)
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    packed = config | {"quantization_config": quantization}
    loaded = load_model(write(tmp_path / "a", packed, stored))
    assert_same(loaded, load_model(write(tmp_path / "b", config, meant)))


def test_every_byte_and_exponent_of_mxfp4(tmp_path):
    """bfloat16 holds all of them, so that nothing is rounded: against the plain statement."""
    from ferrum_jax.models.weights.checkpoint import open_checkpoint
    from ferrum_jax.models.weights.dequantize.mxfp4 import Mxfp4Weights

    blocks = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(255, axis=0)
    exponents = np.arange(255, dtype=np.uint8).reshape(255, 1, 1).repeat(16, axis=2)
    save_file({"x_blocks": blocks, "x_scales": exponents}, tmp_path / "model.safetensors")
    with Mxfp4Weights(open_checkpoint(tmp_path)) as source:
        assert source.names() == ("x",)
        assert source.shape("x") == (255, 512, 1)
        held = source.read("x").astype(np.float64)
    for exponent, byte in np.ndindex(255, 256):
        for half, bits in enumerate((byte & 15, byte >> 4)):
            value = E2M1[bits & 7] * (-1 if bits & 8 else 1) * 2.0 ** (exponent - 127)
            found = held[exponent, 2 * byte + half, 0]
            assert found == (value if abs(value) < 2.0**128 else np.copysign(np.inf, value))


def test_mxfp4_of_the_wrong_shape(tmp_path):
    config, stored, _ = in_mxfp4()
    name = "model.layers.0.mlp.experts.down_proj_scales"
    stored[name] = np.concatenate([stored[name]] * 2, axis=-1)
    packed = config | {"quantization_config": {"quant_method": "mxfp4"}}
    with pytest.raises(fj.WeightError, match=r"down_proj_scales is \(.*mxfp4 has"):
        load_model(write(tmp_path, packed, stored))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llama", {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
        ("llama", {"quant_method": "gptq", "bits": 5}),
        ("gpt2", {"quant_method": "gptq", "bits": 4}),
        ("gpt2", {"quant_method": "awq"}),
        ("llama", {"quant_method": "awq", "version": "gemv"}),
        ("llama", {"quant_method": "awq", "zero_point": False}),
        ("llama", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("llama", COMPRESSED | {"format": "marlin-24"}),
        ("llama", COMPRESSED | {"sparsity_config": {"format": "sparse-24-bitmask"}}),
        (
            "llama",
            COMPRESSED | {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
        ),
        ("llama", COMPRESSED | {"quantization_status": "frozen"}),
        ("llama", {"quant_method": "fbgemm_fp8"}),
        ("llama", {"quant_method": "modelopt"}),
        ("llama", {"quant_method": "mxfp4"}),
        ("llama", {"quant_method": "fp8", "fmt": "e5m2"}),
    ],
)
def test_other_methods_are_refused_with_a_remedy(name, value):
    config = load_case(name).config | {"quantization_config": value}
    method = value["quant_method"]
    with pytest.raises(fj.UnsupportedError, match=f"'{method}'.*checkpoint of the same model in"):
        read_config(config)


@pytest.mark.parametrize("block", [128, [128], [128, 0], [128, True], "128"])
def test_blocks_that_are_none(block):
    config = load_case("llama").config
    with pytest.raises(fj.ConfigError, match="weight_block_size"):
        read_config(config | {"quantization_config": FP8 | {"weight_block_size": block}})


def test_a_null_is_no_quantisation(tmp_path):
    golden = load_case("llama")
    directory = write_checkpoint(golden, tmp_path)
    (directory / "config.json").write_text(
        json.dumps(golden.config | {"quantization_config": None})
    )
    config, params = load_model(directory)
    stored = load_file(directory / "model.safetensors")["model.norm.weight"]
    np.testing.assert_array_equal(np.asarray(params.final_norm.weight), stored)
    assert config == read_config(golden.config)
