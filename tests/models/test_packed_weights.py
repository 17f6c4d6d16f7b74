"""Checkpoints of GPTQ, AWQ and compressed-tensors load as what their formats say.

Of GPTQ and AWQ by a plain statement of each, integer by integer; of compressed-tensors by what the
library itself reads of its files (`make_compressed_reference.py`).
"""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ferrum_jax as fj
from ferrum_jax.models.families.quantization import read_quantization
from ferrum_jax.models.weights.checkpoint import open_checkpoint
from ferrum_jax.models.weights.dequantize import dequantized
from ferrum_jax.models.weights.dequantize.bits import num_words, unpack
from ferrum_jax.models.weights.load import load_model
from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from tests.parity.golden import load_case, make_weights

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CASE = "llama"


def pack_stream(rows, bits):
    """Each row of integers as one number in base 2^bits, cut into words."""
    words = np.empty((len(rows), num_words(rows.shape[1], bits)), np.uint32)
    for i, row in enumerate(rows):
        number = sum(int(value) << (bits * place) for place, value in enumerate(row))
        words[i] = [(number >> (32 * word)) & 0xFFFFFFFF for word in range(words.shape[1])]
    return words.view(np.int32)


def pack_awq(rows):
    words = np.zeros((len(rows), rows.shape[1] // 8), np.uint32)
    for i, word in np.ndindex(words.shape):
        for place, column in enumerate(AWQ_ORDER):
            words[i, word] |= np.uint32(rows[i, 8 * word + column]) << np.uint32(4 * place)
    return words.view(np.int32)


def rounded(rng, inputs, outputs, bits, size, group=None):
    """Random integers, zeros and scales, and the weight [out, in] that they stand for."""
    groups = -(-inputs // size)
    group = np.arange(inputs) // size if group is None else group
    integers = rng.integers(0, 1 << bits, (inputs, outputs))
    zeros = rng.integers(0, 1 << bits, (groups, outputs))
    scales = rng.uniform(0.01, 0.05, (groups, outputs)).astype(np.float16)
    meant = np.empty((outputs, inputs), np.float32)
    for i, o in np.ndindex(inputs, outputs):
        step = np.float32(scales[group[i], o])
        meant[o, i] = (int(integers[i, o]) - int(zeros[group[i], o])) * step
    return integers, zeros, scales, meant


def in_gptq(rng, name, shape, *, bits=4, size=16, offset=1, order=False):
    outputs, inputs = shape
    group = rng.permutation(inputs) // size if order else None
    integers, zeros, scales, meant = rounded(rng, inputs, outputs, bits, size, group)
    parts = {
        "qweight": np.ascontiguousarray(pack_stream(integers.T, bits).T),
        "qzeros": pack_stream((zeros - offset) % (1 << bits), bits),
        "scales": scales,
    }
    if order:
        parts["g_idx"] = group.astype(np.int32)
    return {f"{name}.{part}": value for part, value in parts.items()}, meant


def in_awq(rng, name, shape, size=16):
    outputs, inputs = shape
    integers, zeros, scales, meant = rounded(rng, inputs, outputs, 4, size)
    parts = {"qweight": pack_awq(integers), "qzeros": pack_awq(zeros), "scales": scales}
    return {f"{name}.{part}": value for part, value in parts.items()}, meant


def checkpoint(round_one, but: tuple[str, ...] = ()):
    """A case's layers rounded but for some, and the checkpoint that they stand for."""
    stored, meant, rng = {}, {}, np.random.default_rng(0)
    for key, value in make_weights(load_case(CASE)).items():
        stored[key] = meant[key] = value
        if "layers" in key and value.ndim == 2 and not key.endswith(but):
            del stored[key]
            parts, meant[key] = round_one(rng, key.removesuffix(".weight"), value.shape)
            stored |= parts
    return stored, meant


def write(directory, tensors, quantization=None):
    directory.mkdir(parents=True)
    config = load_case(CASE).config | {"quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def assert_loads(tmp_path, stored, meant, quantization):
    found = load_model(write(tmp_path / "a", stored, quantization))
    expected = load_model(write(tmp_path / "b", meant))
    assert found[0] == expected[0]
    leaves = [jax.tree.leaves(params) for params in (found[1], expected[1])]
    for x, y in zip(*leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"bits": 4}, {}),
        ({"bits": 4, "desc_act": True}, {"order": True}),
        ({"bits": 2, "checkpoint_format": "gptq_v2"}, {"offset": 0}),
        ({"bits": 3}, {"size": 32}),
        ({"bits": 8, "group_size": -1}, {"size": 10_000}),
    ],
)
def test_gptq(settings, how, tmp_path):
    def one(rng, name, shape):
        return in_gptq(rng, name, shape, bits=settings["bits"], **how)

    # 112 inputs of 3 bits would end within a word.
    but = ("down_proj.weight",) if settings["bits"] == 3 else ()
    stored, meant = checkpoint(one, but)
    assert_loads(tmp_path, stored, meant, GPTQ | settings)


def test_gptq_of_several_bits(tmp_path):
    """Rules for names give some layers others; the shapes tell which."""

    def one(rng, name, shape):
        return in_gptq(rng, name, shape, bits=8 if "down_proj" in name else 4)

    stored, meant = checkpoint(one)
    dynamic = {"dynamic": {".*down_proj.*": {"bits": 8}}}
    assert_loads(tmp_path / "read", stored, meant, GPTQ | dynamic)
    with pytest.raises(fj.WeightError, match=r"down_proj.*not a matrix in 4 bits"):
        load_model(write(tmp_path / "refused", stored, GPTQ))


def test_biases_of_zeros_change_nothing(tmp_path):
    """Some writers of GPTQ store one for every layer; any other number is refused."""
    stored, meant = checkpoint(in_gptq)
    name = "model.layers.0.self_attn.o_proj.bias"
    width = meant["model.layers.0.self_attn.o_proj.weight"].shape[0]
    stored[name] = np.zeros(width, np.float16)
    assert_loads(tmp_path / "zeros", stored, meant, GPTQ)
    stored[name][3] = 1.0
    with pytest.raises(fj.WeightError, match=r"unread.*o_proj.bias"):
        load_model(write(tmp_path / "one", stored, GPTQ))


def test_awq(tmp_path):
    assert_loads(tmp_path, *checkpoint(in_awq), AWQ)


@pytest.mark.parametrize("part", ["qzeros", "scales"])
@pytest.mark.parametrize(("quantization", "one"), [(GPTQ, in_gptq), (AWQ, in_awq)])
def test_parts_that_are_missing_or_of_another_shape(quantization, one, part, tmp_path):
    stored, _ = checkpoint(one)
    name = f"model.layers.1.mlp.up_proj.{part}"
    cut = stored | {name: stored[name][:-1]}
    with pytest.raises(fj.WeightError, match=f"up_proj.{part} is .*not a matrix in 4 bits"):
        load_model(write(tmp_path / "cut", cut, quantization))
    del stored[name]
    with pytest.raises(fj.WeightError, match=f"up_proj.{part}"):
        load_model(write(tmp_path / "gone", stored, quantization))


def test_a_group_that_is_none(tmp_path):
    stored, _ = checkpoint(lambda *args: in_gptq(*args, order=True))
    stored["model.layers.0.mlp.up_proj.g_idx"] += 1
    with pytest.raises(fj.WeightError, match=r"up_proj.g_idx names group \d+ of \d+"):
        load_model(write(tmp_path / "a", stored, GPTQ))


@pytest.mark.parametrize("bits", range(1, 9))
def test_integers_of_any_bits_in_words(bits):
    rng = np.random.default_rng(bits)
    rows = rng.integers(0, 1 << bits, (3, 45))
    np.testing.assert_array_equal(unpack(pack_stream(rows, bits), bits, 45), rows)


def load_reference(path):
    with SafetensorsFile(path) as source:
        return {name: np.array(source.read(name)) for name in source.names()}


REFERENCE = load_reference(Path(__file__).with_name("compressed.safetensors"))
COMPRESSED_CASES = sorted({name.split(".")[0] for name in REFERENCE})


def settings_of(case):
    kind = "int" if case.startswith("int") else "float"
    weights = {"type": kind, "num_bits": 8}
    if case.startswith("int"):
        weights["num_bits"] = int(case[3])
    if case == "fp8_blocks":
        weights["block_structure"] = [10, 32]
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "sparsity_config": {},
        "transform_config": {},
    }


def read_one(directory, tensors, settings):
    save_file(tensors, directory / "model.safetensors")
    stored = read_quantization({"quantization_config": settings}, "here")
    with dequantized(open_checkpoint(directory), stored) as source:
        assert source.names() == ("x.weight",)
        read = source.read("x.weight")
        assert source.shape("x.weight") == read.shape
        assert source.dtype("x.weight") == read.dtype
        return read


def parts_of(case):
    start = f"{case}."
    return {
        f"x.{name.removeprefix(start)}": value
        for name, value in REFERENCE.items()
        if name.startswith(start) and not name.endswith("meant")
    }


@pytest.mark.parametrize("case", COMPRESSED_CASES)
def test_compressed_tensors(case, tmp_path):
    """The library computes some of them in bfloat16, which these numbers and scales fit."""
    tensors = parts_of(case) | {"x.input_scale": np.float32([3.0])}
    found, meant = read_one(tmp_path, tensors, settings_of(case)), REFERENCE[f"{case}.meant"]
    assert np.abs(meant).max() > 1
    exact = case not in ("nvfp4", "mxfp4", "mxfp8")
    np.testing.assert_allclose(found, meant, rtol=1e-6 if exact else 2**-8)


def test_groups_out_of_order(tmp_path):
    rng, bits = np.random.default_rng(0), 4
    group = (rng.permutation(64) // 16).astype(np.int32)
    integers = rng.integers(0, 16, (20, 64))
    scales = rng.uniform(0.01, 0.05, (20, 4)).astype(np.float32)
    tensors = {
        "x.weight_packed": pack_stream(integers, bits),
        "x.weight_scale": scales,
        "x.weight_shape": np.array([20, 64]),
        "x.weight_g_idx": group,
    }
    found = read_one(tmp_path, tensors, settings_of("int4_order"))
    for o, i in np.ndindex(20, 64):
        assert found[o, i] == np.float32(integers[o, i] - 8) * scales[o, group[i]]


@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        ("int4_groups", {"x.weight_scale": np.ones((20, 5), np.float32)}, "not a scale by row"),
        ("int4_groups", {"x.weight_shape": np.array([20, 65])}, "not 20 x 65 integers of 4 bits"),
        ("int4_groups", {"x.weight_shape": None}, "has no x.weight_shape"),
        ("int4_groups", {"x.weight_scale": None}, "has no x.weight_scale"),
        ("int8_rows", {"x.weight": np.ones((20, 64), np.int16)}, "int16; known are"),
        ("fp8_blocks", {"x.weight_scale": np.ones((3, 2), np.float32)}, "not a scale by row"),
        ("fp8_rows", {"x.weight": np.ones((2, 20, 64), ml_dtypes.float8_e4m3fn)}, "stacks"),
    ],
)
def test_compressed_tensors_that_do_not_fit(case, change, says, tmp_path):
    tensors = {k: v for k, v in (parts_of(case) | change).items() if v is not None}
    with pytest.raises(fj.WeightError, match=says):
        read_one(tmp_path, tensors, settings_of(case))


@pytest.mark.parametrize("bits", [None, 0, 9, True, "4"])
def test_bits_that_are_none(bits):
    with pytest.raises(fj.ConfigError, match="integer, 1 to 8"):
        read_quantization({"quantization_config": GPTQ | {"bits": bits}}, "here")
