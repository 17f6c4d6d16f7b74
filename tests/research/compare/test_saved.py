"""Files with another system's log-probabilities: written, read, refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ferrum_jax.research.compare import SavedLogprobs, logprobs_file, write_logprobs
from ferrum_jax.types import RequestError

DOCUMENTS = [[3, 1, 4, 1], [5, 9], [2, 6, 5, 3, 5, 8, 9]]
VOCAB = 12


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 3, (len(ids), VOCAB)).astype(np.float32) for ids in DOCUMENTS]


def write(path, logits, documents=DOCUMENTS, **options):
    write_logprobs(path, documents, logits, **({"vocab_size": VOCAB, "name": "it"} | options))
    return SavedLogprobs(path)


def log_probs(logits, number):
    x = logits[number][:-1].astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float16", 1e-3)])
def test_whole_distributions(tmp_path, logits, dtype, rtol):
    saved = write(tmp_path / "x.safetensors", iter(logits), dtype=dtype)
    assert saved.documents == tuple(map(tuple, DOCUMENTS))
    assert (saved.name, saved.vocab_size, saved.top_k, saved.dtype) == ("it", VOCAB, None, dtype)
    for number, ids in enumerate(DOCUMENTS):
        rows, expected = saved.rows(number, 0, len(ids) - 1), log_probs(logits, number)
        every = np.arange(len(ids) - 1)
        assert rows["logprobs"].dtype == np.float32
        np.testing.assert_allclose(rows["logprobs"], expected, rtol=rtol)
        np.testing.assert_allclose(rows["chosen"], expected[every, ids[1:]], rtol=1e-6)
        np.testing.assert_array_equal(rows["top"], expected.argmax(axis=1))
        np.testing.assert_allclose(rows["top_logprob"], expected.max(axis=1), rtol=1e-6)


def test_the_likeliest_ids(tmp_path, logits):
    saved = write(tmp_path / "x.safetensors", logits, top_k=3)
    rows, expected = saved.rows(2, 1, 4), log_probs(logits, 2)[1:4]
    assert rows["ids"].shape == (3, 3)
    np.testing.assert_array_equal(rows["ids"], np.argsort(-expected, axis=1)[:, :3])
    np.testing.assert_allclose(rows["logprobs"], -np.sort(-expected, axis=1)[:, :3], rtol=1e-6)
    others = np.sort(np.exp(expected), axis=1)[:, :-3].sum(axis=1)
    np.testing.assert_allclose(np.exp(rows["tail"]), others, rtol=1e-5)
    assert "3 likeliest ids of 12" in repr(saved)


def test_rows_without_the_last_one_do(tmp_path, logits):
    write(tmp_path / "a.safetensors", logits)
    write(tmp_path / "b.safetensors", [x[:-1] for x in logits])
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_long_documents_are_written_in_blocks(tmp_path, monkeypatch, logits):
    whole = write(tmp_path / "a.safetensors", logits, top_k=4).rows(2, 0, 6)
    monkeypatch.setattr(logprobs_file, "BLOCK_ROWS", 2)
    parts = write(tmp_path / "b.safetensors", logits, top_k=4).rows(2, 0, 6)
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array)


def test_any_safetensors_reader_reads_it(tmp_path, logits):
    write(tmp_path / "x.safetensors", logits, dtype="float16", top_k=2)
    arrays = load_file(tmp_path / "x.safetensors")
    assert arrays["logprobs"].dtype == np.float16
    assert arrays["lengths"].tolist() == [4, 2, 7]


def test_documents_are_found_by_their_ids(tmp_path, logits):
    saved = write(tmp_path / "x.safetensors", logits)
    assert saved.find((5, 9)) == 1
    assert saved.find((5, 8)) is None


def test_the_writer_needs_no_jax():
    path = Path(logprobs_file.__file__)
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('logprobs_file', {str(path)!r})\n"
        "spec.loader.exec_module(u.module_from_spec(spec))\n"
        "print(*{m.split('.')[0] for m in sys.modules} & {'jax', 'ferrum_jax', 'torch', 'flax'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": []}, "no documents"),
        ({"documents": [[1]]}, "document 0 has 1 tokens"),
        ({"documents": [[1, 12]]}, "the vocabulary has 0 to 11"),
        ({"dtype": "int8"}, "choose float32 or float16"),
        ({"top_k": 12}, "choose 1 to 11"),
        ({"logits": []}, "logits has 0 arrays for 3 documents"),
        ({"logits": [np.zeros((4, 11))]}, r"shape \(4, 11\).*need \(4, 12\)"),
        ({"documents": DOCUMENTS[:2]}, "more arrays than the 2 documents"),
    ],
)
def test_what_the_writer_refuses(tmp_path, logits, change, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "x.safetensors", **({"logits": logits} | change))
    assert not list(tmp_path.iterdir())


def test_what_the_reader_refuses(tmp_path, logits):
    path = tmp_path / "x.safetensors"
    with pytest.raises(RequestError, match=r"fj\.LLM\.load"):
        SavedLogprobs(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(RequestError, match="holds no saved log-probabilities"):
        SavedLogprobs(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(RequestError, match="its format is None"):
        SavedLogprobs(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("chosen", None, "it lacks chosen"),
        ("logprobs", np.zeros((10, 11), np.float32), r"has shape \(10, 11\), not \(10, 12\)"),
        ("lengths", np.asarray([4, 1, 8], np.int32), "fewer than 2 tokens"),
        ("lengths", np.asarray([4, 2], np.int32), "tokens has shape"),
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself(tmp_path, logits, name, array, message):
    path = tmp_path / "x.safetensors"
    write(path, logits)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    metadata = json.loads(header[8 : 8 + length])["__metadata__"]
    arrays = load_file(path) | {name: array}
    save_file({k: x for k, x in arrays.items() if x is not None}, path, metadata)
    with pytest.raises(RequestError, match=message):
        SavedLogprobs(path)
