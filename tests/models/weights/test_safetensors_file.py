"""One .safetensors file: what is read is what was written."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_jax.interfaces.weights import WeightSource
from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.types.errors import WeightError

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def entry(**changes):
    return {"x": X | changes}


@pytest.mark.parametrize("tag", DTYPES)
def test_every_dtype_is_read_bit_for_bit(tag, write_raw):
    dtype = np.dtype(DTYPES[tag])
    values = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype)
    header = {"x": {"dtype": tag, "shape": [3, 4], "data_offsets": [0, values.nbytes]}}
    with SafetensorsFile(write_raw(header, values.tobytes())) as file:
        assert file.dtype("x") == dtype
        assert file.shape("x") == (3, 4)
        np.testing.assert_array_equal(file.read("x"), values)


def test_a_file_of_the_library_is_read_as_written(tmp_path):
    rng = np.random.default_rng(1)
    tensors = {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "b": rng.normal(size=(3,)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5, np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "odd name, ü": rng.integers(0, 9, (2, 2, 2)),
        "mask": np.array([True, False, True]),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "np"})
    file = SafetensorsFile(tmp_path / "m.safetensors")
    assert isinstance(file, WeightSource)
    assert set(file.names()) == set(tensors)
    assert file.nbytes == sum(t.nbytes for t in tensors.values())
    assert file.max_file_bytes == (tmp_path / "m.safetensors").stat().st_size
    for name, tensor in tensors.items():
        assert file.dtype(name) == tensor.dtype
        assert file.read(name).shape == file.shape(name) == tensor.shape
        np.testing.assert_array_equal(file.read(name), tensor)


def test_tensors_need_no_alignment(write_raw):
    header = {
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    values = np.array([1.5, -2.0], np.float32)
    file = SafetensorsFile(write_raw(header, b"\x07" + values.tobytes()))
    np.testing.assert_array_equal(file.read("x") * 1, values)


def test_names_come_in_the_order_of_the_data(write_raw):
    header = {"z": X, "a": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]}}
    assert SafetensorsFile(write_raw(header, bytes(11))).names() == ("z", "a")
    swapped = {"z": X | {"data_offsets": [3, 11]}, "a": header["a"] | {"data_offsets": [0, 3]}}
    assert SafetensorsFile(write_raw(swapped, bytes(11))).names() == ("a", "z")


def test_a_read_is_a_read_only_view_that_outlives_the_file(write_raw):
    file = SafetensorsFile(write_raw(entry(), np.array([3.0, 4.0], np.float32).tobytes()))
    transposed = file.read("x").T[::-1]
    assert not transposed.flags.writeable
    file.close()
    np.testing.assert_array_equal(transposed, [4.0, 3.0])
    with pytest.raises(WeightError, match="closed"):
        file.read("x")


def test_an_unknown_name_shows_the_closest(write_raw):
    file = SafetensorsFile(write_raw({"lm_head.weight": X}, bytes(8)))
    for lookup in (file.read, file.shape, file.dtype):
        with pytest.raises(WeightError, match=r"'lm_head.weigth'.*'lm_head.weight'"):
            lookup("lm_head.weigth")


def test_empty_tensors_may_share_a_place(write_raw):
    empty = {"dtype": "F32", "shape": [0, 3]}
    header = {
        "e1": empty | {"data_offsets": [0, 0]},
        "e2": empty | {"data_offsets": [8, 8]},
        "x": X,
    }
    file = SafetensorsFile(write_raw(header, bytes(8)))
    assert [file.read(name).shape for name in ("e1", "e2", "x")] == [(0, 3), (0, 3), (2,)]
