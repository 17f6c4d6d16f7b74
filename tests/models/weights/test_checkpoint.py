"""A checkpoint directory: which files are read, and which directories are refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_jax.interfaces.weights import WeightSource
from ferrum_jax.models.weights import open_checkpoint
from ferrum_jax.types.errors import WeightError

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
A, B, C = (np.full(n, float(n), np.float32) for n in (1, 2, 3))
SHARDS = {ONE: {"a": A, "b": B}, TWO: {"c": C}}


def test_one_file(tmp_path):
    save_file({"a": A}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with open_checkpoint(tmp_path) as source:
        assert isinstance(source, WeightSource)
        assert source.names() == ("a",)
        np.testing.assert_array_equal(source.read("a"), A)


def test_one_file_of_another_name(tmp_path):
    save_file({"a": A}, tmp_path / "weights.safetensors")
    (tmp_path / "._weights.safetensors").write_bytes(b"a resource fork")
    assert open_checkpoint(tmp_path).names() == ("a",)


def test_other_formats_may_lie_beside_it(tmp_path):
    save_file({"a": A}, tmp_path / "model.safetensors")
    save_file({"x": A}, tmp_path / "consolidated.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert open_checkpoint(tmp_path).names() == ("a",)


def test_shards(write_shards):
    directory = write_shards(SHARDS)
    with open_checkpoint(directory) as source:
        assert isinstance(source, WeightSource)
        assert source.location == str(directory)
        assert source.names() == ("a", "b", "c")
        assert source.nbytes == A.nbytes + B.nbytes + C.nbytes
        assert source.max_file_bytes == max(os.path.getsize(directory / f) for f in SHARDS)
        for name, tensor in {"a": A, "b": B, "c": C}.items():
            assert source.shape(name) == tensor.shape
            assert source.dtype(name) == np.float32
            np.testing.assert_array_equal(source.read(name), tensor)
        with pytest.raises(WeightError, match="no tensor 'd'"):
            source.shape("d")
    with pytest.raises(WeightError, match="closed"):
        source.read("a")


def test_an_index_of_one_file(write_shards):
    directory = write_shards({"model.safetensors": {"a": A}})
    assert open_checkpoint(directory).names() == ("a",)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"{}", b'{"weight_map": {}}'])
def test_index_that_is_no_index(write_shards, content):
    directory = write_shards(SHARDS)
    (directory / INDEX).write_bytes(content)
    with pytest.raises(WeightError, match=r"index\.json.*download it again"):
        open_checkpoint(directory)


def test_map_with_a_name_twice(write_shards):
    directory = write_shards(SHARDS)
    (directory / INDEX).write_text(f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}')
    with pytest.raises(WeightError, match="'a' occurs twice"):
        open_checkpoint(directory)


def test_map_that_lies(write_shards):
    directory = write_shards(SHARDS, weight_map={"a": ONE, "b": ONE, "c": ONE, "d": TWO})
    with pytest.raises(WeightError, match=r"'c', 'd' \(in the map, but not in the shard"):
        open_checkpoint(directory)


def test_map_that_is_a_subset(write_shards):
    directory = write_shards(SHARDS, weight_map={"a": ONE, "c": TWO})
    with pytest.raises(WeightError, match=r"'b' \(in a shard, but not in the map\)"):
        open_checkpoint(directory)


def test_map_that_leaves_a_shard_out(write_shards):
    directory = write_shards(SHARDS, weight_map={"a": ONE, "b": ONE})
    with pytest.raises(WeightError, match=f"'{TWO}' would not be read"):
        open_checkpoint(directory)


def test_tensor_in_two_shards(write_shards):
    directory = write_shards({ONE: {"a": A, "b": B}, TWO: {"b": B, "c": C}})
    with pytest.raises(WeightError, match=r"'b' \(held by two shards\)"):
        open_checkpoint(directory)


def test_every_missing_shard_is_named(write_shards):
    files = {f"model-{i:05}-of-00020.safetensors": {f"t{i}": A} for i in range(1, 21)}
    directory = write_shards(files)
    gone = list(files)[2:15]
    for file in gone:
        (directory / file).unlink()
    with pytest.raises(WeightError, match="lacks 13 of its 20 files") as caught:
        open_checkpoint(directory)
    assert all(file in str(caught.value) for file in gone)
    assert "00001-of" not in str(caught.value)


def test_damaged_shard_is_named(write_shards):
    directory = write_shards(SHARDS)
    with open(directory / TWO, "ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightError, match=f"{TWO}: 1 bytes trail"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    "files",
    [[ONE, TWO], [TWO], ["a.safetensors", "b.safetensors"]],
)
def test_several_files_without_an_index(tmp_path, files):
    for file in files:
        save_file({file: A}, tmp_path / file)
    with pytest.raises(WeightError, match=f"no {INDEX}"):
        open_checkpoint(tmp_path)


def test_two_sets_of_weights(write_shards):
    directory = write_shards(SHARDS)
    save_file({"a": A}, directory / "model.safetensors")
    with pytest.raises(WeightError, match=r"'model.safetensors' would not be read"):
        open_checkpoint(directory)
    (directory / INDEX).unlink()
    with pytest.raises(WeightError, match=f"'{ONE}', '{TWO}' would not be read"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(WeightError, match=name) as caught:
        open_checkpoint(tmp_path)
    assert "safe_serialization=True" in str(caught.value)
    assert "from_pretrained" in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_directory_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(WeightError, match=r"no weights.*found 'config.json'"):
        open_checkpoint(tmp_path)
    for path in (tmp_path / "absent", tmp_path / "config.json"):
        with pytest.raises(WeightError, match="not a readable directory"):
            open_checkpoint(path)
