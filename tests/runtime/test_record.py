"""What a record says of its run, and that it is written whole or not at all."""

import hashlib
import json
import os
import platform
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.params import NormParams
from ferrum_jax.runtime import record
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.record import environment, to_json, weights_digest, write_json
from ferrum_jax.types import DataType
from tests.runtime.models import model


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: float
    tags: tuple[str, ...] = ()


def test_the_environment_names_versions_device_and_machine():
    found = environment()
    assert list(found["versions"]) == ["ferrum_jax", "jax", "jaxlib", "flax", "numpy", "python"]
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["ferrum_jax"] == fj.__version__
    device = device_info()
    assert found["device"]["platform"] == device.platform
    assert found["device"]["kind"] == device.kind
    assert found["device"]["memory_bytes"] == device.memory_bytes
    assert found["machine"] == {
        "architecture": platform.machine(),
        "cpu_count": os.cpu_count(),
    }
    assert json.loads(to_json(found)) == found


def test_an_environment_is_plain_data_on_a_cpu_with_products_of_its_own(monkeypatch):
    own = replace(device_info(), multiplies=(DataType.BFLOAT16, DataType.INT8))
    monkeypatch.setattr(record, "device_info", lambda: own)
    found = environment()
    assert found["device"]["multiplies"] == ["bfloat16", "int8"]
    assert json.loads(to_json(found)) == found


def test_the_command_is_the_given_one_or_that_of_the_process(monkeypatch):
    assert environment("make results")["command"] == "make results"
    assert environment(["run.py", "--name", "a b"])["command"] == "run.py --name 'a b'"
    monkeypatch.setattr(sys, "argv", ["sweep.py", "x; y"])
    assert environment()["command"] == "sweep.py 'x; y'"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ("git", "-C", str(folder), *identity, *words)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_the_checkouts_and_new_files_make_it_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    found = environment()
    assert (found["commit"], found["dirty"]) == (None, None)
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "first", "--no-gpg-sign")
    found = environment()
    assert (found["commit"], found["dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "b.py").write_text("x = 2\n")
    assert environment()["dirty"] is True


def test_a_folder_inside_someone_elses_checkout_has_no_commit(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(record, "CHECKOUT", packages)
    assert environment()["commit"] is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", "")
    found = environment()
    assert (found["commit"], found["dirty"]) == (None, None)


def test_the_digest_is_sha256_over_names_dtypes_shapes_and_bytes():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float16(2)
    expected = hashlib.sha256(
        b"0.bias float16 []\n" + b.tobytes() + b"0.weight float32 [2,3]\n" + a.tobytes()
    ).hexdigest()
    assert weights_digest([NormParams(weight=a, bias=b)]) == expected
    assert weights_digest((NormParams(weight=jnp.asarray(a), bias=jnp.float16(2)),)) == expected
    assert weights_digest([NormParams(weight=np.asfortranarray(a), bias=b)]) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros((3, 2), np.float32)},
        {"w": np.zeros((2, 3), np.int32)},
        {"v": np.zeros((2, 3), np.float32)},
        {"w": np.zeros((2, 3), np.float32), "x": np.zeros(0, np.float32)},
        {"w": np.full((2, 3), -0.0, np.float32)},
    ],
    ids=["shape", "dtype", "name", "another leaf", "one bit"],
)
def test_whatever_differs_changes_the_digest(other):
    assert weights_digest(other) != weights_digest({"w": np.zeros((2, 3), np.float32)})


def test_a_models_digest_is_the_same_in_another_process():
    code = (
        "from ferrum_jax.models import init_params\n"
        "from ferrum_jax.runtime.record import weights_digest\n"
        "from tests.runtime.models import model\n"
        "print(weights_digest(init_params(model('dense'), seed=3, dtype='bfloat16')))\n"
    )
    root = Path(__file__).parent.parent.parent
    options = {"cwd": root, "capture_output": True, "text": True, "check": True}
    there = subprocess.run([sys.executable, "-c", code], **options).stdout.strip()
    assert there == weights_digest(init_params(model("dense"), seed=3, dtype="bfloat16"))
    assert there != weights_digest(init_params(model("dense"), seed=4, dtype="bfloat16"))


def test_json_is_strict_and_takes_what_records_hold():
    value = {
        "nan": float("nan"),
        "infinite": [np.float32("-inf"), jnp.asarray([jnp.inf, 0.5])],
        "numpy": (np.int64(3), np.bool_(True), np.arange(4).reshape(2, 2)),
        "bfloat16": jnp.asarray([1.5, jnp.nan], jnp.bfloat16),
        "enum": Colour.RED,
        "point": Point(1.0, ("a",)),
        "path": Path("a") / "b",
        3: None,
        "text": "Ω",
    }
    assert json.loads(to_json(value), parse_constant=pytest.fail) == {
        "nan": None,
        "infinite": [None, [None, 0.5]],
        "numpy": [3, True, [[0, 1], [2, 3]]],
        "bfloat16": [1.5, None],
        "enum": "red",
        "point": {"x": 1.0, "tags": ["a"]},
        "path": str(Path("a") / "b"),
        "3": None,
        "text": "Ω",
    }


def test_what_json_would_lose_is_refused():
    with pytest.raises(fj.RequestError, match="same text"):
        to_json({1: "a", "1": "b"})
    with pytest.raises(fj.RequestError, match="object"):
        to_json([object()])


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"value": float("nan")})
    assert path.read_text() == '{\n  "value": null\n}\n'
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    ordinary.unlink()
    write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    assert [found.name for found in tmp_path.iterdir()] == ["results.json"]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, "old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, "new")
    assert json.loads(path.read_text()) == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["results.json"]


def test_a_link_stays_a_link_and_a_pipe_is_written_as_it_stands(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    write_json(link, 1)
    assert link.is_symlink()
    assert json.loads(target.read_text()) == 1
    write_json(os.devnull, 2)
    assert not Path(os.devnull).is_file()


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        write_json(tmp_path / "missing" / "results.json", 1)
