"""What `LLM.generate`, `stream` and `score` give back, however the work is batched."""

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj

GREEDY = fj.SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
RANDOM = fj.SamplingParams(temperature=1.0, max_tokens=12, seed=7, ignore_eos=True)
ONE_JAX, EVERY_CASE = pytest.mark.one_jax, pytest.mark.every_case


def prompts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 4096, rng.integers(1, 40)).tolist() for _ in range(count)]


def tokens(outputs):
    return [c.token_ids for output in outputs for c in output.outputs]


@pytest.mark.parametrize("params", [GREEDY, RANDOM], ids=["greedy", "random"])
def test_a_request_does_not_depend_on_its_neighbours(llm, params):
    batch = prompts(11)
    together = tokens(llm.generate(batch, params))
    alone = [tokens(llm.generate([prompt], params))[0] for prompt in batch]
    assert together == alone


def test_greedy_follows_the_logits_of_the_full_forward(llm):
    prompt = prompts(1)[0]
    output = llm.generate([prompt], GREEDY)[0].outputs[0].token_ids
    logits = llm.logits(prompt + output)
    assert output == logits[len(prompt) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"num_pages": 24, "max_num_seqs": 4}, id="preempting"),
        pytest.param({"max_num_batched_tokens": 8}, id="small chunks", marks=ONE_JAX),
        pytest.param({"run_ahead": False}, id="no run-ahead", marks=EVERY_CASE),
        pytest.param({"page_size": 16, "num_pages": 40}, id="other pages", marks=EVERY_CASE),
        pytest.param(
            {"chunked_prefill": False, "max_num_batched_tokens": 64},
            id="whole prompts",
            marks=ONE_JAX,
        ),
    ],
)
def test_settings_of_the_engine_do_not_change_the_text(llm, make_llm, changes):
    batch = prompts(9, seed=3)
    expected = tokens(llm.generate(batch, RANDOM))
    with make_llm(**changes) as other:
        outputs = other.generate(batch, RANDOM)
        assert other.engine.free_pages == other.engine.kv.num_pages - 1
    assert tokens(outputs) == expected
    if "num_pages" in changes and changes["num_pages"] == 24:
        assert sum(output.metrics.num_preemptions for output in outputs) > 0


def test_seeds_and_completions(llm):
    prompt = prompts(1)[0]
    several = llm.generate([prompt], replace(RANDOM, n=3))[0].outputs
    assert [c.index for c in several] == [0, 1, 2]
    assert len({tuple(c.token_ids) for c in several}) == 3
    assert llm.generate([prompt], RANDOM)[0].outputs[0].token_ids == several[0].token_ids
    free = llm.generate([prompt], replace(RANDOM, seed=None))[0].outputs[0]
    again = llm.generate([prompt], replace(RANDOM, seed=free.seed))[0].outputs[0]
    assert again.token_ids == free.token_ids


def test_logprobs_are_those_of_the_raw_model(llm):
    prompt = prompts(1)[0]
    params = replace(RANDOM, logprobs=3, prompt_logprobs=2, repetition_penalty=1.3, top_k=50)
    output = llm.generate([prompt], params)[0]
    ids = prompt + output.outputs[0].token_ids
    logits = llm.logits(ids)
    logprobs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    assert output.prompt_logprobs[0] is None
    for position, table in enumerate(output.prompt_logprobs[1:] + output.outputs[0].logprobs):
        token, row = ids[position + 1], logprobs[position]
        assert table[token].logprob == pytest.approx(row[token], abs=1e-4)
        assert table[token].rank == 1 + (row > row[token]).sum()
        count = 2 if position + 1 < len(prompt) else 3
        best = np.argsort(-row, kind="stable")[:count]
        assert set(table) == {*best.tolist(), token}


def test_logprobs_of_the_sampled_token_alone(llm):
    output = llm.generate([prompts(1)[0]], replace(GREEDY, logprobs=0))[0].outputs[0]
    assert [list(table) for table in output.logprobs] == [[token] for token in output.token_ids]
    ranks = [t[i].rank for t, i in zip(output.logprobs, output.token_ids, strict=True)]
    assert set(ranks) == {1}
    assert llm.generate([prompts(1)[0]], GREEDY)[0].outputs[0].logprobs is None


def test_scores_equal_the_full_forward_and_the_batch_does_not_matter(llm):
    texts = prompts(5, seed=9)
    together = llm.score(texts)
    for ids, score in zip(texts, together, strict=True):
        logits = llm.logits(ids).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = logprobs[np.arange(len(ids) - 1), ids[1:]]
        assert score.logprobs.dtype == np.float32
        assert np.isnan(score.logprobs[0])
        np.testing.assert_allclose(score.logprobs[1:], expected, atol=1e-4)
        assert score.total == pytest.approx(expected.sum(), abs=1e-3)
        assert score.token_ids == ids


def test_stream_concatenates_to_the_text_of_generate(llm):
    params = replace(RANDOM, max_tokens=40)
    deltas = list(llm.stream("def main(", params))
    whole = llm.generate("def main(", params)[0].outputs[0]
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [t for delta in deltas for t in delta.token_ids] == whole.token_ids
    assert deltas[-1].finish_reason == "length" == whole.finish_reason
    assert len(deltas) > 10


def test_streams_side_by_side_lose_nothing(llm):
    params = replace(RANDOM, max_tokens=20)
    texts = {name: llm.generate(name, params)[0].outputs[0].text for name in ("def f(", "import")}
    parts = dict.fromkeys(texts, "")
    streams = {name: llm.stream(name, params) for name in texts}
    for i in range(40):
        for name, stream in streams.items():
            delta = next(stream, None)
            parts[name] += "" if delta is None else delta.text
        if i == 3:
            llm.generate([[5, 6, 7]], GREEDY)
    assert parts == texts


def test_leaving_a_stream_frees_its_pages(llm):
    for delta in llm.stream("class", replace(RANDOM, max_tokens=60)):
        assert delta.text is not None
        break


def test_stop_strings_tokens_and_ends_of_text(llm):
    whole = llm.generate("for x in", replace(RANDOM, max_tokens=30))[0].outputs[0]
    stop = whole.text[8:11]
    cut = llm.generate("for x in", replace(RANDOM, max_tokens=30, stop=stop))[0].outputs[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    kept = replace(RANDOM, max_tokens=30, stop=stop, include_stop_str_in_output=True)
    assert llm.generate("for x in", kept)[0].outputs[0].text == cut.text + stop

    third = whole.token_ids[2]
    by_token = replace(RANDOM, max_tokens=30, stop_token_ids=(third,))
    output = llm.generate("for x in", by_token)[0].outputs[0]
    first = whole.token_ids.index(third)
    assert output.token_ids == whole.token_ids[: first + 1]
    assert (output.finish_reason, output.stop_reason) == ("stop", third)

    ended = replace(RANDOM, ignore_eos=False, logit_bias={2: 100.0})
    output = llm.generate("for x in", ended)[0].outputs[0]
    assert (output.token_ids, output.text, output.finish_reason) == ([2], "", "stop")
    ignored = llm.generate("for x in", replace(ended, ignore_eos=True))[0].outputs[0]
    assert ignored.finish_reason == "length"


def test_length_ends_at_max_tokens_and_at_max_model_len(llm):
    prompt = [5] * 100
    output = llm.generate([prompt], replace(GREEDY, max_tokens=500))[0].outputs[0]
    assert (len(output.token_ids), output.finish_reason) == (28, "length")


def test_allowed_tokens_and_bias(llm):
    allowed = replace(RANDOM, allowed_token_ids=(10, 11, 12))
    assert set(llm.generate([[7, 8]], allowed)[0].outputs[0].token_ids) <= {10, 11, 12}
    pushed = replace(RANDOM, logit_bias={99: 80.0})
    assert set(llm.generate([[7, 8]], pushed)[0].outputs[0].token_ids) == {99}


def test_a_truncated_prompt_is_its_own_tail(llm):
    prompt = prompts(1)[0]
    cut = llm.generate([prompt], replace(GREEDY, truncate_prompt_tokens=3))[0]
    assert cut.prompt_token_ids == prompt[-3:]
    assert tokens([cut]) == tokens(llm.generate([prompt[-3:]], GREEDY))


def test_metrics_are_in_order(llm):
    metrics = llm.generate([prompts(1)[0]], GREEDY)[0].metrics
    assert metrics.arrival <= metrics.first_scheduled <= metrics.first_token <= metrics.finished
    assert metrics.time_to_first_token >= 0


def test_with_config_is_another_model_over_the_same_weights(llm):
    edited = llm.with_config(fj.edit_layers(llm.config, layers=[1], activation="relu"))
    assert edited.params is llm.params
    prompt = prompts(1)[0]
    assert np.abs(edited.logits(prompt) - llm.logits(prompt)).max() > 1e-3
    with pytest.raises(fj.ModelError, match=r"layers\.1\.mixer_norm\.bias"):
        llm.with_config(fj.edit_layers(llm.config, layers=[1], norm="layer"))
