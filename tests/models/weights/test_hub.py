"""From a path or a hub id to a directory, with the hub's client replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from ferrum_jax.models.weights import resolve_checkpoint
from ferrum_jax.types.errors import ModelError


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """The calls that reach the hub; each answers with a directory."""
    calls = []

    def snapshot_download(repo_id, **options):
        calls.append((repo_id, options))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


@pytest.fixture
def fail_with(monkeypatch):
    def install(error):
        def snapshot_download(*args, **options):
            raise error

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    return install


def test_an_existing_directory_stands_as_it_is(tmp_path, monkeypatch, downloads):
    (tmp_path / "org/name").mkdir(parents=True)
    assert resolve_checkpoint(tmp_path) == tmp_path
    assert resolve_checkpoint(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("org/name") == Path("org/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_checkpoint("~/org") == tmp_path / "org"
    assert downloads == []


@pytest.mark.parametrize(
    ("hub_id", "repo", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name-1.5_B@main", "org/name-1.5_B", "main"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("org/name@v1.0", "org/name", "v1.0"),
    ],
)
def test_hub_ids(downloads, tmp_path, hub_id, repo, revision):
    assert resolve_checkpoint(hub_id) == tmp_path / "snapshot"
    [(called, options)] = downloads
    assert (called, options["revision"]) == (repo, revision)


def test_only_data_is_downloaded(downloads):
    resolve_checkpoint("org/name")
    [(_, options)] = downloads
    wanted = [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "chat_template.jinja",
        "merges.txt",
        "qwen.tiktoken",
        "modules.json",
        "1_Pooling/config.json",
    ]
    unwanted = [
        "modeling_name.py",
        "pytorch_model.bin",
        "model.gguf",
        "original/model.safetensors",
        "onnx/config.json",
        "1/config.json",
        "1_Dense/model.safetensors",
        "1_Pooling/old/config.json",
        "consolidated.safetensors",
    ]
    patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(wanted + unwanted, **patterns)) == wanted


@pytest.mark.parametrize(
    "given",
    [
        "gpt2",
        "./org/name",
        "../name",
        "~/absent",
        "~nobody-here/x",
        "a/b/c",
        "/absent/name",
        "org/",
        "org/name/",
        "org/../name",
        "org/..",
        "org/name@",
        "org/name@a b",
        "org/name@../x",
        "org/na me",
        "org\\name",
        "http://host/name",
        "a\0b",
        Path("org/name"),
        Path("/absent"),
    ],
)
def test_what_is_neither_names_the_closest_directory(downloads, monkeypatch, tmp_path, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such directory and not a hub id: .*closest"):
        resolve_checkpoint(given)
    assert downloads == []


def test_the_closest_existing_parent_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError) as caught:
        resolve_checkpoint(tmp_path / "models/llama/8b")
    assert repr(str(tmp_path / "models/llama/8b")) in str(caught.value)
    assert f"exists is {tmp_path / 'models'})" in str(caught.value)


@pytest.mark.parametrize("given", ["", "  ", None, 3, b"org/name", ["org/name"]])
def test_what_names_nothing(downloads, given):
    with pytest.raises(ModelError, match="a directory or a hub id"):
        resolve_checkpoint(given)
    assert downloads == []


def test_a_file_is_no_directory(tmp_path, monkeypatch, downloads):
    (tmp_path / "org").mkdir()
    (tmp_path / "org/name").write_text("")
    monkeypatch.chdir(tmp_path)
    for given in ("org/name", tmp_path / "org/name"):
        with pytest.raises(ModelError, match="is a file; give the directory"):
            resolve_checkpoint(given)
    assert downloads == []


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (errors.RepositoryNotFoundError, "no such repository"),
        (errors.GatedRepoError, "accept its terms on the hub and set HF_TOKEN"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.LocalEntryNotFoundError, "HF_HUB_OFFLINE"),
        (errors.HFValidationError, "not a valid id"),
        (errors.HfHubHTTPError, "check the network"),
        (ConnectionError, "check the network"),
        (OSError, "free disk space"),
    ],
)
def test_failures_of_the_hub_say_what_was_tried_and_the_remedy(fail_with, kind, remedy):
    # Without __init__, whose arguments differ between releases of the client.
    error = kind.__new__(kind, "words of the hub")
    fail_with(error)
    with pytest.raises(ModelError) as caught:
        resolve_checkpoint("org/name@v2")
    message = str(caught.value)
    assert "'org/name' at revision 'v2'" in message
    assert remedy in message
    assert kind.__name__ in message
    assert caught.value.__cause__ is error


def test_offline_reads_the_cache_only(monkeypatch, tmp_path):
    """The client itself: nothing cached, nothing sent."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set.*LocalEntryNotFoundError"):
        resolve_checkpoint("org/name")


def test_an_interrupt_is_passed_on(fail_with):
    fail_with(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        resolve_checkpoint("org/name")
