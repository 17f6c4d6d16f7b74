"""Activations that cannot be written or read: refused, naming the argument, or file and tensor."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ferrum_jax as fj
from ferrum_jax.runtime.activations import Activations, ActivationWriter
from tests.runtime.activation_folders import FIRST, PROMPTS, assert_held, write, writer


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "acts")


def change_index(folder, change):
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def change_tensors(folder, change):
    """Rewrite the shard with the safetensors library, and tell the index its new size."""
    tensors = load_file(folder / FIRST)
    change(tensors)
    save_file(tensors, folder / FIRST)
    size = (folder / FIRST).stat().st_size
    change_index(folder, lambda index: index["shards"][0].update(bytes=size))


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": ("resid_pots",)}, "'resid_pots' is not a site; the sites are resid_pre"),
        ({"sites": ()}, "name at least one"),
        ({"sites": ("z", "z")}, "each once"),
        ({"layers": ()}, "layers is .* name at least one"),
        ({"layers": (1, 1)}, "each once"),
        ({"layers": (-1,)}, "layers holds -1"),
        ({"layers": ("1",)}, "layers is .* give a list of integers"),
        ({"dtype": "float64"}, "'float64'.*choose one of float32, float16, bfloat16"),
        ({"dtype": "int8"}, "'int8'.*choose one of float32"),
        ({"shard_bytes": 0}, "shard_bytes is 0"),
        ({"shard_bytes": 1.5}, "shard_bytes is 1.5"),
        ({"record": {"x": object()}}, "a record cannot hold"),
    ],
)
def test_wrong_settings_touch_no_folder(tmp_path, options, message):
    with pytest.raises(fj.RequestError, match=message):
        writer(tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


IDS, VALUES, PLACES = PROMPTS[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": -1}, "prompt is -1"),
        ({"prompt": True}, "prompt is True"),
        ({"prompt": 9}, "prompt 9 was added before"),
        ({"token_ids": [1.5] * 4}, "prompt 1: token_ids is float64"),
        ({"token_ids": [[1, 2, 3, 4]]}, r"token_ids is int64 of shape \(1, 4\)"),
        ({"token_ids": [[1], [1, 2]]}, "token_ids is no list of integers"),
        ({"token_ids": [0, 1, 2, -3]}, "token_ids holds -3 to 2; give integers from 0"),
        ({"token_ids": [0, 1, 2, 2**31]}, "token_ids holds 0 to 2147483648"),
        ({"token_ids": [7, 8, 9]}, "position 3 is none of its 3 token ids"),
        ({"positions": [0, 1]}, r"resid_post of layer 3 has shape \(4, 8\) for 2 positions"),
        ({"values": VALUES | {"z": {3: VALUES["z"][3]}}}, "z float32 of layers 3; the prompts bef"),
        ({"values": {"z": VALUES["z"]}}, "prompt 1 brings z; this folder is for resid_post, z"),
        ({"values": VALUES | {"q": {}}}, "brings resid_post, z, q; this folder is for"),
        ({"values": VALUES | {"z": {}}}, r"z is of layers \(\); this folder is for \(3, 4\)"),
        ({"values": VALUES | {"z": {5: VALUES["z"][3]}}}, r"z is of layers \(5,\)"),
        ({"values": VALUES | {"z": {3: np.float32(1)}}}, r"z of layer 3 has shape \(\)"),
        (
            {"values": VALUES | {"z": {3: np.ones((4, 2, 3))}}},
            "float64, which is not stored; choose a dtype to cast to: float32, float16, bfloat16",
        ),
        (
            {"values": VALUES | {"z": {3: VALUES["z"][3], 4: np.ones((4, 2, 3), np.float16)}}},
            "z is float16 and float32 by layer",
        ),
        (
            {"values": {s: {i: np.ones((4, 2), np.float16) for i in (3, 4)} for s in VALUES}},
            "brings resid_post float16 of layers 3, 4; .*brought resid_post float32",
        ),
    ],
)
def test_a_wrong_prompt_is_refused_and_changes_nothing(tmp_path, changes, message):
    right = {"prompt": 1, "token_ids": IDS, "values": VALUES, "positions": PLACES}
    with writer(tmp_path / "a") as folder:
        folder.add(9, *PROMPTS[2])
        with pytest.raises(fj.RequestError, match=message):
            folder.add(**right | changes)
        folder.add(**right)
    assert_held(Activations.open(tmp_path / "a"), [PROMPTS[0], PROMPTS[2]])


@pytest.mark.parametrize(
    ("dtype", "number", "advice"),
    [
        ("float16", 65_520.0, "choose float32 or bfloat16"),
        ("bfloat16", -3.4e38, "choose float32$"),
        ("float32", 1e39, "choose float32$"),
    ],
)
def test_a_number_beyond_the_dtype_is_refused(tmp_path, dtype, number, advice):
    x = np.array([[1.0, number, np.inf, np.nan]], np.float64 if dtype == "float32" else np.float32)
    options = {"sites": "mlp_out", "layers": 0, "dtype": dtype}
    with ActivationWriter(tmp_path / "a", **options) as folder:
        wanted = rf"prompt 0: mlp_out of layer 0 holds {abs(number):g} in size.*{advice}"
        with pytest.raises(fj.RequestError, match=wanted.replace("+", r"\+")):
            folder.add(0, [1], {"mlp_out": {0: x}}, [0])
        x[0, 1] = 2
        folder.add(0, [1], {"mlp_out": {0: x}}, [0])
    np.testing.assert_array_equal(
        Activations.open(tmp_path / "a").stack("mlp_out", 0).astype(np.float32),
        [[1, 2, np.inf, np.nan]],
    )


def test_stack_names_what_is_held(tmp_path, folder):
    for site, layer in (("q", 3), ("z", 5)):
        with pytest.raises(
            fj.RequestError, match=f"no '{site}' of layer {layer}; it holds .*z of layers 3, 4"
        ):
            Activations.open(folder).stack(site, layer)
    with ActivationWriter(tmp_path / "p", sites="pattern", layers=0) as patterns:
        for n in (2, 3):
            x = np.ones((n, 2, n), np.float32)
            patterns.add(n, range(n), {"pattern": {0: x}}, range(n))
    acts = Activations.open(tmp_path / "p")
    assert [x["pattern"][0].shape for x in acts] == [(2, 2, 2), (3, 2, 3)]
    with pytest.raises(fj.RequestError, match=r"\(3, 2, 3\) in prompt 3 and \(2, 2, 2\) in pr"):
        acts.stack("pattern", 0)


# A damaged folder


@pytest.mark.parametrize("path", ["missing", "."])
def test_a_folder_without_an_index(tmp_path, path):
    with pytest.raises(fj.RequestError, match=r"index\.json does not exist; give a folder"):
        Activations.open(tmp_path / path)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_an_index_that_is_none(folder, raw):
    (folder / "index.json").write_bytes(raw)
    with pytest.raises(fj.WeightError, match=r"index\.json: .*; capture these texts again"):
        Activations.open(folder)


NOTHING = object()
DAMAGE = [
    (("format",), "x", "not an index of activations"),
    (("sites",), ["x"], "not distinct sites"),
    (("sites",), [["z"]], "not distinct sites"),
    (("sites",), ["z", "z"], "not distinct sites"),
    (("sites",), ["z"], "arrays does not describe the sites z"),
    (("layers",), [3, -4], "layers holds something else"),
    (("layers",), [3, True], "layers holds something else"),
    (("layers",), [3], "layers of resid_post"),
    (("layers",), 3, "layers is no list"),
    (("dtype",), "float8", "dtype is 'float8'"),
    (("dtype",), ["float32"], "dtype is"),
    (("complete",), 1, "complete is no boolean"),
    (("record",), [], "record no object"),
    (("record",), NOTHING, "needs exactly the keys"),
    (("more",), 1, "needs exactly the keys"),
    (("arrays",), [], "arrays does not describe"),
    (("arrays", "z"), NOTHING, "arrays does not describe"),
    (("arrays", "z"), {}, "arrays of z needs exactly the keys"),
    (("arrays", "z", "dtype"), "U8", "dtype is 'U8'"),
    (("arrays", "z", "dtype"), {}, "dtype is {}"),
    (("arrays", "z", "layers"), [], "layers of z"),
    (("arrays", "z", "layers"), [9], "layers of z"),
    (("shards",), {}, "shards is no list"),
    (("shards", 0), [], "shard 0 needs exactly the keys"),
    (("shards", 0, "prompts"), [], "are not spans"),
    (("shards", 0, "prompts"), [[0]], "are not spans"),
    (("shards", 0, "prompts"), [[3, 0]], "are not spans"),
    (("shards", 0, "prompts"), [[0, 3.0]], "prompts of part-00000.safetensors holds"),
    (("shards", 0, "prompts"), [[0, 10**12]], "cannot hold 1,000,000,000,000 prompts"),
    (("shards", 0, "prompts"), [[0, 3], [2, 3]], "prompt 2 is listed twice"),
    (("shards", 0, "tokens"), -1, "tokens and bytes"),
    (("shards", 0, "bytes"), "1", "tokens and bytes"),
]


@pytest.mark.parametrize(("keys", "value", "message"), DAMAGE)
def test_an_index_that_lies(folder, keys, value, message):
    def change(index):
        for key in keys[:-1]:
            index = index[key]
        if value is NOTHING:
            del index[keys[-1]]
        else:
            index[keys[-1]] = value

    change_index(folder, change)
    with pytest.raises(fj.WeightError, match=rf"index\.json: .*{message}.*; capture"):
        Activations.open(folder)


def test_another_version(folder):
    change_index(folder, lambda index: index.update(version=2))
    with pytest.raises(fj.UnsupportedError, match=r"have version 2 .* reads 1"):
        Activations.open(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "part-00001.safetensors", "x/" + FIRST, "", 3, None]
)
def test_a_shard_of_another_name(folder, name):
    change_index(folder, lambda index: index["shards"][0].update(file=name))
    with pytest.raises(fj.WeightError, match=r"shard 0 is .*, not part-00000\.safetensors of its"):
        Activations.open(folder)


def test_a_shard_that_is_missing_or_leads_elsewhere(folder, tmp_path):
    (folder / FIRST).rename(tmp_path / "outside")
    with pytest.raises(fj.WeightError, match=r"part-00000\.safetensors is missing.*capture these"):
        Activations.open(folder)
    (folder / FIRST).symlink_to(tmp_path / "outside")
    with pytest.raises(fj.WeightError, match=r"part-00000\.safetensors is a link to"):
        Activations.open(folder)


def test_an_index_that_leads_elsewhere(folder, tmp_path):
    (folder / "index.json").rename(tmp_path / "outside")
    (folder / "index.json").symlink_to(tmp_path / "outside")
    with pytest.raises(fj.WeightError, match=r"index\.json is a link to"):
        Activations.open(folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_shard_that_is_no_file(folder, make):
    (folder / FIRST).unlink()
    make(folder / FIRST)
    with pytest.raises(fj.WeightError, match=r"part-00000\.safetensors: .*; capture these"):
        Activations.open(folder)


def test_a_shard_that_is_cut_names_the_tensor(folder):
    size = (folder / FIRST).stat().st_size
    os.truncate(folder / FIRST, size - 1)
    wanted = r"part-00000\.safetensors: tensor '0000000\d\.\S+' ends .*the file is cut; capture"
    with pytest.raises(fj.WeightError, match=wanted):
        Activations.open(folder)


def test_a_shard_of_another_size(folder):
    save_file({"x": np.ones(3)}, folder / FIRST)
    with pytest.raises(fj.WeightError, match=r"part-00000\.safetensors has \d+ bytes, not the"):
        Activations.open(folder)


def test_a_shard_that_is_cut_after_it_was_opened(folder):
    acts = Activations.open(folder)
    os.truncate(folder / FIRST, 50)
    with pytest.raises(fj.WeightError, match=r"part-00000\.safetensors: its header claims"):
        acts[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"00000001.z.3": None}, "tensor '00000001.z.3' is in the index and not in the file"),
        ({"00000002.token_ids": None}, "tensor '00000002.token_ids' is in the index and not"),
        ({"00000003.z.3": np.ones(1)}, "tensor '00000003.z.3' is in the file and not in the index"),
        ({"00000000.z.3": np.ones((4, 2, 3))}, "tensor '00000000.z.3' is float64; the index says"),
        ({"00000000.z.3": np.float32(1)}, r"tensor '00000000.z.3' has shape \(\) for"),
        ({"00000000.z.3": np.ones((3, 2), np.float32)}, r"'00000000.z.3' has shape \(3, 2\)"),
        ({"00000000.positions": np.zeros((4, 1), np.int32)}, "not one axis"),
        ({"00000000.token_ids": np.zeros((4, 1), np.int32)}, "not one axis"),
        ({"00000000.positions": np.zeros(4, np.int64)}, "positions' is int64"),
    ],
)
def test_a_shard_of_other_tensors_than_the_index_says(folder, changes, message):
    def change(tensors):
        for name, value in changes.items():
            if value is None:
                del tensors[name]
            else:
                tensors[name] = np.asarray(value)

    change_tensors(folder, change)
    acts = Activations.open(folder)
    with pytest.raises(fj.WeightError, match=rf"part-00000\.safetensors: .*{message}.*; capture"):
        acts[0]


def test_an_index_that_counts_other_tokens(folder):
    change_index(folder, lambda index: index["shards"][0].update(tokens=13))
    with pytest.raises(fj.WeightError, match="holds 12 tokens; the index says 13"):
        Activations.open(folder).stack("z", 3)
