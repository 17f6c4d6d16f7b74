"""`ferrum-jax generate`: streaming, batches, JSON, chat, and what it refuses."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ferrum_jax.cli.generate import _completed
from ferrum_jax.runtime.defaults import SamplingDefaults
from ferrum_jax.types import SamplingParams


def test_one_prompt_is_streamed_after_its_text(run, checkpoint):
    code, out, err = run(
        "generate", "The quick", "--model", checkpoint, "--max-tokens", 6, "--temperature", 0
    )
    assert code == 0
    assert out.startswith("The quick")
    assert out.endswith("\n")
    assert "finish reason: " in err
    assert "tokens/s" in err
    assert "first token after" in err


def test_json_is_one_object_that_repeats_with_its_seed(run, checkpoint):
    def once():
        argv = ("generate", "The quick", "--model", checkpoint, "--max-tokens", 5)
        code, out, _ = run(*argv, "--seed", 3, "--n", 2, "--logprobs", 2, "--json")
        assert code == 0
        return json.loads(out)

    first, second = once(), once()
    assert first["results"][0]["completions"] == second["results"][0]["completions"]
    assert first["seed"] == 3
    assert first["sampling"]["temperature"] == 0.7
    assert first["config"]["hidden_size"] == 32
    assert {"ferrum_jax", "jax", "jaxlib", "python"} <= set(first["versions"])
    (result,) = first["results"]
    assert result["prompt"] == "The quick"
    assert result["prompt_token_ids"][0] == 0
    assert result["time_to_first_token"] > 0
    assert [c["index"] for c in result["completions"]] == [0, 1]
    for completion in result["completions"]:
        assert len(completion["token_ids"]) <= 5
        assert completion["finish_reason"] in ("length", "stop")
        assert len(completion["logprobs"]) == len(completion["token_ids"])


def test_streamed_batched_and_json_texts_agree(run, checkpoint):
    common = ("--model", checkpoint, "--max-tokens", 6, "--temperature", 0)
    _, streamed, _ = run("generate", "for x", *common)
    _, batched, err = run("generate", "for x", "The lazy", *common)
    _, encoded, _ = run("generate", "for x", *common, "--json")
    text = json.loads(encoded)["results"][0]["completions"][0]["text"]
    assert streamed == f"for x{text}\n"
    assert f"for x{text}\n" in batched
    assert "The lazy" in batched
    assert "2/2" in err, "the progress bar"


def test_prompts_come_from_stdin_and_files_too(run, checkpoint, tmp_path, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_text("print(", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("for x"))
    argv = ("--prompt-file", file, "--model", checkpoint, "--max-tokens", 2, "--json")
    code, out, _ = run("generate", "-", *argv)
    assert code == 0
    assert [r["prompt"] for r in json.loads(out)["results"]] == ["for x", "print("]


def test_chat_writes_the_template_and_no_second_bos(run, checkpoint):
    argv = ("generate", "dog", "--model", checkpoint, "--max-tokens", 2, "--json")
    _, plain, _ = run(*argv)
    _, chat, _ = run(*argv, "--chat")
    plain_ids = json.loads(plain)["results"][0]["prompt_token_ids"]
    chat_ids = json.loads(chat)["results"][0]["prompt_token_ids"]
    assert len(chat_ids) > len(plain_ids)
    assert chat_ids.count(0) == plain_ids.count(0) == 1


def test_logprobs_are_printed_under_the_text(run, checkpoint):
    argv = ("--model", checkpoint, "--max-tokens", 3, "--temperature", 0, "--logprobs", 2)
    code, out, _ = run("generate", "for x", *argv)
    assert code == 0
    assert out.count("rank 1 ") == 3


def test_stop_strings_end_the_text(run, checkpoint):
    common = ("generate", "for x", "--model", checkpoint, "--max-tokens", 8, "--temperature", 0)
    _, out, _ = run(*common, "--json")
    text = json.loads(out)["results"][0]["completions"][0]["text"]
    stop = text[len(text) // 2]
    _, out, err = run(*common, "--stop", stop)
    assert out == "for x" + text[: text.index(stop)] + "\n"
    assert "finish reason: stop" in err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--temperature", "-1"], 1, "temperature is -1.0"),
        (["--engine", "page_sise=16"], 1, "did you mean page_size?"),
        (["--engine", "page_size=0"], 1, "page_size is 0"),
        (["--engine", "page_size"], 2, "not of the form key=value"),
        (["--dtype", "int4"], 1, "dtype 'int4'"),
        (["--max-tokens", "many"], 2, "invalid int value"),
        (["--prompt-file", "missing.txt"], 2, "cannot read missing.txt"),
        (["--model", "no/such/place"], 1, "no such directory"),
    ],
)
def test_mistakes_get_one_line_and_a_code(run, checkpoint, options, code, message):
    got, out, err = run("generate", "x", "--model", checkpoint, *options)
    assert got == code
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    if code == 1:
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_no_prompt_is_a_usage_error(run):
    code, _, err = run("generate")
    assert code == 2
    assert "no text given" in err


def test_debug_shows_the_traceback(run, checkpoint):
    with pytest.raises(ValueError, match="temperature"):
        run("generate", "x", "--model", checkpoint, "--temperature", "-1", "--debug")


@pytest.mark.parametrize(
    ("recommended", "options", "temperature"),
    [
        ({}, {}, 0.7),
        ({"top_p": 0.9}, {}, 0.7),
        ({"temperature": 0.5}, {}, 0.5),
        ({"temperature": 0.0}, {}, 0.0),
        ({"temperature": 0.0}, {"top_p": 0.9}, 0.7),
        ({"temperature": 0.0}, {"max_tokens": 3}, 0.0),
        ({"temperature": 0.5}, {"temperature": 0.1}, 0.1),
    ],
)
def test_options_go_over_the_checkpoint_and_that_over_our_own(recommended, options, temperature):
    defaults = SamplingDefaults(SamplingParams(**recommended), recommended)
    completed = _completed(options, SimpleNamespace(sampling_defaults=defaults))
    params = replace(defaults.params, **completed)
    assert params.temperature == temperature
    for name, value in {**recommended, **options}.items():
        assert name == "temperature" or getattr(params, name) == value
