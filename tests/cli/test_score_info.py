"""`ferrum-jax score` and `ferrum-jax info`."""

import json
import math
import shutil

import pytest

import ferrum_jax as fj
from tests.parity.golden import raw_config


def test_score_agrees_with_the_library(run, checkpoint):
    texts = ["The quick brown fox", "for é in argv"]
    code, out, _ = run("score", *texts, "--model", checkpoint, "--json")
    assert code == 0
    results = json.loads(out)["results"]
    with fj.LLM.load(checkpoint) as llm:
        logits = [llm.logits(text) for text in texts]
    for text, result, logits_TV in zip(texts, results, logits, strict=True):
        ids = result["token_ids"]
        shifted = logits_TV - logits_TV.max(-1, keepdims=True)
        logprobs_TV = shifted - _log_sum_exp(shifted)
        total = sum(logprobs_TV[i - 1, ids[i]] for i in range(1, len(ids)))
        assert result["total"] == pytest.approx(total, abs=1e-3)
        assert result["logprobs"][0] is None
        assert result["perplexity"] == pytest.approx(math.exp(-total / (len(ids) - 1)), rel=1e-4)
        # The first token is bos, so every byte of the text was scored.
        size = len(text.encode())
        assert result["bits_per_byte"] == pytest.approx(-total / math.log(2) / size, rel=1e-4)


def _log_sum_exp(x):
    import numpy as np

    return np.log(np.exp(x).sum(-1, keepdims=True))


def test_score_prints_a_row_per_text_and_token(run, checkpoint, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The dog.\n", encoding="utf-8")
    code, out, _ = run("score", "for", "--file", file, "--model", checkpoint, "--tokens")
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["tokens", "logprob", "perplexity", "bits/byte", "text"]
    assert any(row.endswith("The dog.") for row in rows)
    assert "'<s>'" in out


def test_a_text_without_scored_tokens_has_no_perplexity(run, checkpoint):
    code, out, _ = run("score", "", "--model", checkpoint, "--json")
    assert code == 0
    (result,) = json.loads(out)["results"]
    assert result["perplexity"] is None
    assert result["bits_per_byte"] is None
    assert result["total"] == 0


def test_score_refuses_a_text_that_is_too_long(run, checkpoint):
    code, _, err = run(
        "score", "ok", "dog " * 300, "--model", checkpoint, "--engine", "max_model_len=99"
    )
    assert code == 1
    assert "max_model_len" in err


def test_info_describes_a_model_without_its_weights(run, checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    engine = "page_size=8,max_num_seqs=4"
    code, out, _ = run("info", "--model", tmp_path, "--engine", engine, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["num_parameters"] == 28_192
    assert record["weight_bytes"] == 4 * 28_192
    assert record["max_model_len"] == 8192
    cache = record["cache"]
    assert cache["num_pages"] == 4 * 8192 // 8 + 1
    assert cache["tokens"] == 4 * 8192
    assert cache["bytes"] == cache["num_pages"] * 8 * 2 * 2 * 2 * 8 * 4
    assert "4 tokens x 4 rows" in record["step_shapes"]
    with fj.LLM.load(checkpoint, engine=fj.EngineConfig(page_size=8, max_num_seqs=4)) as llm:
        assert [str(s) for s in llm.engine.declared_shapes] == record["step_shapes"]
        assert llm.engine.kv.num_pages == cache["num_pages"]


def test_info_prints_what_it_knows(run, checkpoint):
    code, out, _ = run("info", "--model", checkpoint, "--dtype", "bfloat16")
    assert code == 0
    for text in ("28,192 parameters, bfloat16", "llama: 2 layers", "pages of 16 tokens", "jax "):
        assert text in out


def test_info_tells_what_recurrent_layers_hold(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw_config("mamba")))
    code, out, _ = run("info", "--model", tmp_path, "--engine", "max_num_seqs=4", "--json")
    assert code == 0
    record = json.loads(out)
    mixer = record["config"]["layers"][0]["recurrent"]
    state = mixer["inner_size"] * (mixer["state_size"] + mixer["conv_size"] - 1)
    assert record["states"]["sequence_bytes"] == 3 * 4 * state
    assert record["states"]["bytes"] == 5 * record["states"]["sequence_bytes"]
    assert record["cache"]["bytes"] == 0
    code, out, _ = run("info", "--model", tmp_path)
    assert code == 0
    assert "a sequence, whatever its length" in out
    assert "mamba 64, state 8" in out


def test_info_shows_the_sampling_that_the_checkpoint_recommends(run, checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    record = {"do_sample": True, "top_p": 0.9, "num_beams": 2, "eos_token_id": [1, 7]}
    (tmp_path / "generation_config.json").write_text(json.dumps(record))
    code, out, _ = run("info", "--model", tmp_path)
    assert code == 0
    assert "sampling top_p 0.9; not applied: num_beams 2" in out
    assert "ends     1, 7" in out
    _, out, _ = run("info", "--model", tmp_path, "--json")
    sampling = json.loads(out)["sampling"]
    assert sampling["given"] == {"top_p": 0.9}
    assert sampling["params"]["top_p"] == 0.9
    assert sampling["eos_token_ids"] == [1, 7]
