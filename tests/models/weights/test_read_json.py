"""The JSON files of a checkpoint."""

from __future__ import annotations

import math
import os

import pytest

from ferrum_jax.models.weights import files, read_json
from ferrum_jax.types.errors import ConfigError


def test_an_object_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "ü", "limit": [0.0, Infinity], "x": null}')
    expected = {"name": "ü", "limit": [0.0, math.inf], "x": None}
    assert read_json(tmp_path, "config.json") == expected


def test_code_of_the_checkpoint_is_not_imported(tmp_path):
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('owned').touch()")
    read_json(tmp_path, "config.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "evil.py"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[1]", "a JSON list, not an object"),
        (b"null", "a JSON NoneType, not an object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
    ],
)
def test_anything_else_is_a_config_error(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"config\.json: .*{message}"):
        read_json(tmp_path, "config.json")


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        read_json(tmp_path, "config.json")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        with pytest.raises(ConfigError, match=name):
            read_json(tmp_path, name)


def test_a_file_too_large_to_be_a_config(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    (tmp_path / "config.json").write_text('{"a": "0123456789"}')
    with pytest.raises(ConfigError, match="larger than 10 bytes"):
        read_json(tmp_path, "config.json")
