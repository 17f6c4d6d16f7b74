"""Files of a checkpoint that lead elsewhere: paths, links, pipes and folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_jax.models.weights import open_checkpoint
from ferrum_jax.types.errors import WeightError

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
A, B, C = (np.full(n, float(n), np.float32) for n in (1, 2, 3))
SHARDS = {ONE: {"a": A, "b": B}, TWO: {"c": C}}


@pytest.mark.parametrize(
    "value",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "./x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "C:\\x.safetensors",
        "..",
        "",
        "x.bin",
        "x\0.safetensors",
        "x\n.safetensors",
        "\ud800.safetensors",
        None,
        3,
        ["x.safetensors"],
        {"file": "x.safetensors"},
    ],
)
def test_map_that_leads_out_of_the_directory(write_shards, value):
    directory = write_shards({ONE: {"a": A}}, weight_map={"a": ONE, "b": value})
    with pytest.raises(WeightError, match="of its own directory"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", [TWO, INDEX])
def test_link_out_of_the_directory(write_shards, tmp_path, name):
    directory = write_shards(SHARDS)
    (directory / name).rename(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", "../elsewhere", "/dev/null", "../absent"):
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(target)
        with pytest.raises(WeightError, match="outside of the checkpoint"):
            open_checkpoint(directory)


def test_single_file_that_is_a_link_out(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    save_file({"a": A}, tmp_path / "elsewhere.safetensors")
    (tmp_path / "checkpoint/model.safetensors").symlink_to("../elsewhere.safetensors")
    with pytest.raises(WeightError, match="outside of the checkpoint"):
        open_checkpoint(tmp_path / "checkpoint")


def test_links_within_and_to_the_directory(write_shards, tmp_path):
    directory = write_shards(SHARDS)
    (directory / TWO).rename(directory / "real")
    (directory / TWO).symlink_to("real")
    (tmp_path / "alias").symlink_to(directory)
    assert open_checkpoint(tmp_path / "alias").names() == ("a", "b", "c")


def test_link_to_itself_is_a_missing_file(write_shards):
    directory = write_shards(SHARDS)
    (directory / TWO).unlink()
    (directory / TWO).symlink_to(TWO)
    with pytest.raises(WeightError, match="lacks 1 of its 2 files"):
        open_checkpoint(directory)


def hub_snapshot(write_shards, cache: Path) -> Path:
    """A snapshot as huggingface_hub lays it out: links into the blobs of the repository."""
    repo = cache / "models--org--name"
    directory = write_shards(SHARDS, directory=repo / "snapshots" / ("0" * 40))
    (repo / "blobs").mkdir()
    for i, file in enumerate((ONE, TWO, INDEX)):
        (directory / file).rename(repo / "blobs" / f"hash{i}")
        (directory / file).symlink_to(f"../../blobs/hash{i}")
    return directory


def test_snapshot_of_the_hub_cache(write_shards, tmp_path):
    directory = hub_snapshot(write_shards, tmp_path)
    source = open_checkpoint(directory)
    np.testing.assert_array_equal(source.read("c"), C)
    (tmp_path / "alias").symlink_to(directory)
    assert open_checkpoint(tmp_path / "alias").names() == source.names()


def test_snapshot_with_a_link_to_other_blobs(write_shards, tmp_path):
    directory = hub_snapshot(write_shards, tmp_path)
    blob = directory / "../../blobs/hash1"
    for place in ("models--org--other/blobs", "models--org--name/blobs/deeper"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "hash1").write_bytes(blob.read_bytes())
        (directory / TWO).unlink()
        (directory / TWO).symlink_to(tmp_path / place / "hash1")
        with pytest.raises(WeightError, match="outside of the checkpoint"):
            open_checkpoint(directory)


def test_snapshot_whose_blob_is_gone(write_shards, tmp_path):
    directory = hub_snapshot(write_shards, tmp_path)
    (directory / "../../blobs/hash1").unlink()
    with pytest.raises(WeightError, match=rf"lacks 1 of its 2 files.*'{TWO}'"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", [TWO, INDEX])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipe_or_folder_in_place_of_a_file(write_shards, refusal, name, make):
    directory = write_shards(SHARDS)
    (directory / name).unlink()
    make(directory / name)
    assert name in refusal(lambda: open_checkpoint(directory))
