"""Activations on disk: what is written is read back, in bounded memory, also after a stop."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import ferrum_jax as fj
from ferrum_jax.runtime.activations import Activations, ActivationWriter
from tests.runtime.activation_folders import (
    FIRST,
    PROMPTS,
    assert_held,
    prompt,
    write,
    writer,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "acts")


# What is written and read


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("shard_bytes", [1, 1200, 2**28])
def test_prompts_come_back_in_the_order_of_their_numbers(tmp_path, order, shard_bytes):
    acts = Activations.open(write(tmp_path / "a", order=order, shard_bytes=shard_bytes))
    assert_held(acts)
    assert acts.sites == ("resid_post", "z")
    assert acts.layers == (3, 4)
    assert acts.dtype == "float32"
    assert acts.complete
    assert acts.prompts.tolist() == [0, 1, 2]
    assert acts.num_tokens == 12


def test_the_shards_are_what_the_safetensors_library_reads(folder):
    tensors = load_file(folder / FIRST)
    assert len(tensors) == 3 * (2 * 2 + 2)
    np.testing.assert_array_equal(tensors["00000002.z.4"], PROMPTS[2][1]["z"][4])
    np.testing.assert_array_equal(tensors["00000001.token_ids"], PROMPTS[1][0])
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", FIRST]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "bf16"])
def test_a_dtype_is_cast_to(tmp_path, dtype):
    acts = Activations.open(write(tmp_path / "a", dtype=dtype))
    kind = {"float32": np.float32, "float16": np.float16}.get(dtype, ml_dtypes.bfloat16)
    assert acts.dtype == np.dtype(kind).name
    for i, (_, values, _) in enumerate(PROMPTS):
        x = acts[i]["z"][3]
        assert x.dtype == kind
        np.testing.assert_array_equal(x, values["z"][3].astype(kind))


def test_without_a_dtype_each_site_keeps_its_own(tmp_path):
    values = {
        "mlp_out": {0: np.ones((2, 3), ml_dtypes.bfloat16)},
        "router": {0: np.full((2, 5), 2, np.float32), 2: np.full((2, 5), 3, np.float32)},
    }
    with ActivationWriter(tmp_path / "a", sites=tuple(values), layers=(0, 2)) as folder:
        folder.add(0, [5, 6], values, [0, 1])
    acts = Activations.open(tmp_path / "a")
    assert acts.dtypes == {"mlp_out": "bfloat16", "router": "float32"}
    assert acts.dtype is None
    assert {site: tuple(layers) for site, layers in acts[0].items()} == {
        "mlp_out": (0,),
        "router": (0, 2),
    }
    np.testing.assert_array_equal(acts[0]["router"][2], values["router"][2])
    assert "layers 0, 2; mlp_out bfloat16, router float32)" in repr(acts)


def test_some_positions_of_a_prompt(tmp_path):
    prompts = [prompt(5, start=3), prompt(2, start=2)]
    acts = Activations.open(write(tmp_path / "a", prompts))
    assert_held(acts, prompts)
    assert acts[1]["resid_post"][3].shape == (0, 8)
    assert acts.num_tokens == 2


def test_stack_is_one_site_of_all_prompts(tmp_path):
    acts = Activations.open(write(tmp_path / "a", order=(2, 0, 1), shard_bytes=1))
    expected = np.concatenate([values["z"][4] for _, values, _ in PROMPTS])
    stacked = acts.stack("z", 4)
    np.testing.assert_array_equal(stacked, expected)
    assert stacked.flags.writeable


def test_it_is_a_sequence(folder):
    acts = Activations.open(folder)
    assert [len(values["z"][3]) for values in acts] == [4, 1, 7]
    assert [len(values["z"][3]) for values in acts[::-2]] == [7, 4]
    assert [len(ids) for ids in acts.token_ids] == [4, 1, 7]
    assert [ids.tolist() for ids in acts.positions[:2]] == [[0, 1, 2, 3], [0]]
    np.testing.assert_array_equal(acts[np.int64(-1)]["z"][3], PROMPTS[2][1]["z"][3])
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"prompt {i} of 3; give -3 to 2"):
            acts[i]
        with pytest.raises(IndexError):
            acts.token_ids[i]


def test_repr_tells_how_much_there_is(folder):
    size = (folder / FIRST).stat().st_size
    assert repr(Activations.open(folder)) == (
        f"Activations('{folder}': 3 prompts, 12 tokens, {size / 1024:.1f} KiB; resid_post, z; "
        "layers 3-4; float32)"
    )


def test_the_record_is_kept_as_it_was(tmp_path):
    record = {"seed": 3, "path": Path("x"), "loss": np.float32(0.5)}
    with writer(tmp_path / "a", record=record) as folder:
        record["seed"] = 4
        folder.add(0, *PROMPTS[0])
    assert Activations.open(tmp_path / "a").record == {"seed": 3, "path": "x", "loss": 0.5}


def test_the_writer_copies_what_it_is_given(tmp_path):
    x = np.ones((2, 3), np.float32)
    with ActivationWriter(tmp_path / "a", sites="mlp_out", layers=1) as folder:
        folder.add(0, [1, 2], {"mlp_out": {1: x}}, [0, 1])
        x[:] = 7
    assert Activations.open(tmp_path / "a").stack("mlp_out", 1).max() == 1


def test_no_prompts(tmp_path):
    acts = Activations.open(write(tmp_path / "a", []))
    assert (len(acts), list(acts), acts.num_tokens, acts.nbytes) == (0, [], 0, 0)
    assert "0 prompts, 0 tokens, 0 bytes" in repr(acts)
    with pytest.raises(fj.RequestError, match="no prompts yet"):
        acts.stack("z", 3)


# Memory


def test_views_share_the_map_and_are_read_only(folder):
    acts = Activations.open(folder)
    one, two = acts[0]["z"][3], acts[0]["z"][3]
    assert not one.flags.owndata
    assert not one.flags.writeable
    assert one.ctypes.data == two.ctypes.data
    for i in range(3):
        for layers in acts[i].values():
            for x in layers.values():
                assert x.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        acts.prompts[0] = 1


def test_odd_sizes_leave_every_tensor_aligned(tmp_path):
    x = np.arange(3, dtype=np.float16).reshape(1, 3)  # 6 bytes, beside integers of 4
    with ActivationWriter(tmp_path / "a", sites="mlp_out", layers=0) as folder:
        folder.add(0, [5], {"mlp_out": {0: x}}, [0])
    acts = Activations.open(tmp_path / "a")
    assert acts.token_ids[0].flags.aligned
    assert acts.positions[0].flags.aligned
    np.testing.assert_array_equal(acts.token_ids[0], [5])
    np.testing.assert_array_equal(acts[0]["mlp_out"][0], x)


def test_a_view_outlives_its_shard_and_its_folder(tmp_path):
    prompts = [prompt(2) for _ in range(20)]
    acts = Activations.open(write(tmp_path / "a", prompts, shard_bytes=1))
    kept = acts[0]["z"][3]
    for _ in acts:  # more shards than are kept open
        pass
    write(tmp_path / "a", PROMPTS, overwrite=True)
    np.testing.assert_array_equal(kept, prompts[0][1]["z"][3])


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from ferrum_jax.runtime.activations import Activations, ActivationWriter

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

values = {"resid_post": {0: np.ones((512, 1024), np.float32)}}  # 2 MiB
start = peak()
with ActivationWriter(
    sys.argv[1], sites=("resid_post",), layers=(0,), shard_bytes=8 * 2**20
) as writer:
    for i in range(40):
        writer.add(i, range(512), values, range(512))
written = peak()
acts = Activations.open(sys.argv[1])
total = sum(float(x["resid_post"][0][:, 0].sum()) + float(x["resid_post"][0].sum()) for x in acts)
assert total == 40 * 512 * 1025
print(written - start, peak() - written, acts.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_bounded_by_a_shard(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "a")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    writing, reading, held = map(int, done.stdout.split())
    assert held > 80 * 2**20
    assert writing < 20 * 2**20
    assert reading < 20 * 2**20


def test_a_shard_holds_no_more_than_it_may(tmp_path):
    prompts = [prompt(4) for _ in range(9)]
    data = 4 * 2 * (8 + 6) * 4 + 2 * 4 * 4
    acts = write(tmp_path / "a", prompts, shard_bytes=2 * data)
    counts = []
    for path in sorted(acts.glob("part-*")):
        with safe_open(path, "numpy") as file:
            counts.append(len(file.keys()) // 6)
    assert counts == [2, 2, 2, 2, 1]


def test_a_shard_of_tiny_prompts_keeps_its_header_small(tmp_path, monkeypatch):
    monkeypatch.setattr("ferrum_jax.runtime.activations.shard.HEADER_BYTES", 1300)
    folder = write(tmp_path / "a", [prompt(1)] * 5)
    assert len(list(folder.glob("part-*"))) == 3
    assert len(Activations.open(folder)) == 5


# A run that stops


def test_a_stopped_run_leaves_a_prefix(tmp_path):
    folder = writer(tmp_path / "a", shard_bytes=1)

    def run():
        with folder:
            for i, number in enumerate((5, 0, 1)):
                folder.add(number, *PROMPTS[i])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "index.json",
        FIRST,
        "part-00001.safetensors",
    ]
    acts = Activations.open(tmp_path / "a")
    assert acts.prompts.tolist() == [0, 5]
    assert_held(acts, [PROMPTS[1], PROMPTS[0]])
    assert not acts.complete
    assert repr(acts).endswith("; unfinished)")
    with pytest.raises(fj.RequestError, match="is closed"):
        folder.add(2, *PROMPTS[2])


def test_a_reader_may_open_what_is_still_written(tmp_path):
    with writer(tmp_path / "a", shard_bytes=1) as folder:
        assert len(Activations.open(tmp_path / "a")) == 0
        for i in range(3):
            folder.add(i, *PROMPTS[i])
            assert len(Activations.open(tmp_path / "a")) == i
        assert repr(folder) == f"ActivationWriter('{tmp_path / 'a'}', 3 prompts, open)"
    folder.close()
    assert_held(Activations.open(tmp_path / "a"))


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_that_was_added(tmp_path):
    folder = writer(tmp_path / "a", shard_bytes=1)
    folder.add(0, *PROMPTS[0])
    with (
        files_of_at_most(100),
        pytest.raises(fj.DeviceError, match=r"part-00000\.safetensors cannot be .*make room"),
    ):
        folder.add(1, *PROMPTS[1])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["index.json"]
    folder.add(1, *PROMPTS[1])
    folder.add(2, *PROMPTS[2])
    folder.close()
    assert_held(Activations.open(tmp_path / "a"))


def test_an_index_that_cannot_be_written_takes_its_shard_along(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    folder = writer(tmp_path / "a")
    folder.add(0, *PROMPTS[0])
    with monkeypatch.context() as patch:
        patch.setattr("ferrum_jax.runtime.activations.writer.write_index", refuse)
        with pytest.raises(fj.DeviceError, match="No space left on device"):
            folder.close()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["index.json"]
    folder.close()
    assert_held(Activations.open(tmp_path / "a"), PROMPTS[:1])


# The folder


def test_a_folder_in_use_is_refused(folder):
    before = (folder / FIRST).stat()
    with pytest.raises(fj.RequestError, match=r"not empty \('index.json', .*overwrite=True"):
        writer(folder)
    assert (folder / FIRST).stat() == before


def test_overwrite_replaces_activations_and_nothing_else(folder):
    (folder / ".part-00001.safetensors.0123abcd").write_bytes(b"of a writer that was killed")
    (folder / ".keep").write_text("")
    write(folder, [prompt(1)] * 2, overwrite=True)
    assert len(Activations.open(folder)) == 2
    assert sorted(p.name for p in folder.iterdir()) == [".keep", "index.json", FIRST]
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(fj.RequestError, match=r"other files than activations \('thesis.tex'\)"):
        writer(folder, overwrite=True)
    assert len(Activations.open(folder)) == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(fj.RequestError, match=rf"{path} cannot be written \(.*give a folder"):
            writer(path)


def test_an_existing_empty_folder_is_taken(tmp_path):
    assert_held(Activations.open(write(tmp_path)))
