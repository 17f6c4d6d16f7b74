"""One .safetensors file that is damaged, or lies: refused, naming the file and the tensor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.types.errors import WeightError

X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def entry(**changes):
    return {"x": X | changes}


@pytest.mark.parametrize("size", range(8))
def test_shorter_than_a_header(tmp_path, size):
    path = tmp_path / "short.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(WeightError, match=r"short\.safetensors: .*Download"):
        SafetensorsFile(path)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_truncation_names_the_tensor(write_raw, cut):
    path = write_raw(entry(), bytes(8 - cut))
    with pytest.raises(WeightError, match=r"raw\.safetensors: tensor 'x' ends at byte 8"):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    ("length", "message"),
    [(100_000_001, "limit is 100,000,000"), (2**64 - 1, "limit is"), (1000, "has .* in all")],
)
def test_header_length_that_lies(write_raw, length, message):
    with pytest.raises(WeightError, match=message):
        SafetensorsFile(write_raw({}, length=length))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"\xff": 1}', "not UTF-8"),
        (b"{nope}", "not JSON"),
        (b'{"x": ', "not JSON"),
        (b"[]", "does not start with"),
        (b" {}", "does not start with"),
        (b"", "does not start with"),
        (b"\xef\xbb\xbf{}", "does not start with"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"x": 1, "x": 1}', "'x' occurs twice"),
        (b'{"x": {"dtype": "U8", "dtype": "I8"}}', "'dtype' occurs twice"),
        (b'{"__metadata__": {"a": 1}}', "__metadata__"),
        (b'{"__metadata__": []}', "__metadata__"),
        (b'{"x": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}", "header is refused"),
    ],
)
def test_header_that_is_no_object(write_raw, raw, message):
    with pytest.raises(WeightError, match=message):
        SafetensorsFile(write_raw(raw))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": 3}, "exactly the keys"),
        ({"x": {"dtype": "F32", "shape": [2]}}, "exactly the keys"),
        (entry(stride=[1]), "exactly the keys"),
        (entry(dtype="F4"), "dtype 'F4', which is none of"),
        (entry(dtype=["F32"]), "which is none of"),
        (entry(dtype="F64"), "takes 16 bytes, its data_offsets span 8"),
        (entry(shape=[3]), "takes 12 bytes"),
        (entry(shape=[-2]), "shape that is not a list"),
        (entry(shape=[2.0]), "shape that is not a list"),
        (entry(shape=[True, 2]), "shape that is not a list"),
        (entry(shape="2"), "shape that is not a list"),
        (entry(shape=[1] * 40 + [2]), "41 axes"),
        (entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "too large"),
        (entry(data_offsets=[0, 8.0]), "data_offsets that is not a list"),
        (entry(data_offsets=[False, 8]), "data_offsets that is not a list"),
        (entry(data_offsets=[-8, 0]), "data_offsets that is not a list"),
        (entry(data_offsets=[8, 0]), "not a begin and an end"),
        (entry(data_offsets=[8]), "not a begin and an end"),
        (entry(data_offsets=[0, 4, 8]), "not a begin and an end"),
    ],
)
def test_entry_that_lies(write_raw, header, message):
    with pytest.raises(WeightError, match=rf"raw\.safetensors: tensor 'x'.*{message}"):
        SafetensorsFile(write_raw(header, bytes(8)))


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"x": X, "y": X}, 8, "'y' at byte 0 overlaps"),
        ({"x": X, "y": X | {"data_offsets": [4, 12]}}, 12, "'y' at byte 4 overlaps"),
        ({"x": X, "y": X | {"data_offsets": [9, 17]}}, 17, "'y' at byte 9 follows a hole"),
        (entry(data_offsets=[1, 9]), 9, "'x' at byte 1 follows a hole"),
        (entry(), 9, "1 bytes trail the last tensor"),
        ({}, 3, "3 bytes trail"),
    ],
)
def test_tensors_tile_the_data_exactly(write_raw, header, size, message):
    with pytest.raises(WeightError, match=message):
        SafetensorsFile(write_raw(header, bytes(size)))


def test_a_boolean_is_0_or_1(write_raw):
    header = {"flag": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}
    with pytest.raises(WeightError, match="'flag' has booleans"):
        SafetensorsFile(write_raw(header, b"\x01\x02")).read("flag")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path, refusal):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    names = ("pipe", "folder", "absent")
    for path in [*(tmp_path / f"{name}.safetensors" for name in names), Path("/dev/zero")]:
        assert str(path) in refusal(lambda path=path: SafetensorsFile(path))
