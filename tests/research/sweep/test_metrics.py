"""Metrics against the logits of one dense forward, summed by hand."""

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.sweep import bits_per_byte, kl_from_baseline, logprob_of, nll
from ferrum_jax.research.sweep import divergence as divergence_module
from ferrum_jax.research.sweep.metrics import values_of

TEXTS = ["The for statement", "def main(argv):\n    return π"]


def logprobs(llm, ids):
    """log p of every token but the first, from the dense forward."""
    logits = llm.logits(ids).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array([table[i, token] for i, token in enumerate(ids[1:])])


def measured(metric, llm):
    return metric.read(llm, llm.score(metric.prompts(llm)))


def test_nll_is_nats_a_token_over_all_documents(llm, documents):
    values = measured(nll(documents), llm)
    by_hand = [-logprobs(llm, ids) for ids in documents]
    np.testing.assert_allclose(values.sums, [x.sum() for x in by_hand], rtol=1e-5)
    assert values.weights.tolist() == [11, 6, 8]
    assert values.value == pytest.approx(np.concatenate(by_hand).mean(), rel=1e-5)
    assert values.num_tokens == 25


def test_bits_per_byte_counts_the_bytes_of_what_was_scored(spelling_llm):
    llm = spelling_llm
    values = measured(bits_per_byte(TEXTS), llm)
    ids = [llm.tokenizer.encode(text) for text in TEXTS]
    assert values.weights.tolist() == [17, 29]  # UTF-8 bytes: the first token is bos, π has two
    bits = [-logprobs(llm, x).sum() / np.log(2) for x in ids]
    np.testing.assert_allclose(values.sums, bits, rtol=1e-5)
    assert values.value == pytest.approx(sum(bits) / 46, rel=1e-5)


def test_an_unscored_first_token_takes_its_bytes_with_it(spelling_llm):
    ids = spelling_llm.tokenizer.encode("for statement", add_special_tokens=False)
    first = spelling_llm.tokenizer.decode(ids[:1])
    values = measured(bits_per_byte([ids]), spelling_llm)
    assert values.weights.tolist() == [len("for statement") - len(first)]


def test_bits_per_byte_needs_a_tokenizer(llm, documents):
    with pytest.raises(fj.TokenizerError, match=r"use nll, or put tokenizer\.json"):
        measured(bits_per_byte(documents), llm)


def test_the_logprob_of_an_answer_is_that_of_its_tokens(llm):
    values = measured(logprob_of([[5, 6, 7], [8, 9]], [[10], [11, 12, 13]]), llm)
    first, second = logprobs(llm, [5, 6, 7, 10]), logprobs(llm, [8, 9, 11, 12, 13])
    np.testing.assert_allclose(values.sums, [first[2:].sum(), second[1:].sum()], rtol=1e-5)
    assert values.weights.tolist() == [1, 1]
    assert values.num_tokens == 4


def test_prompt_and_answer_are_spelled_as_one_text(spelling_llm):
    llm = spelling_llm
    prompt, answer = "The for", " statement"
    whole, before = llm.tokenizer.encode(prompt + answer), llm.tokenizer.encode(prompt)
    assert whole[: len(before)] == before
    values = measured(logprob_of([prompt], [answer]), llm)
    by_hand = logprobs(llm, whole)[len(before) - 1 :].sum()
    np.testing.assert_allclose(values.sums, [by_hand], rtol=1e-5)
    assert values.num_tokens == len(whole) - len(before)


def test_a_token_that_spans_both_is_the_answers(spelling_llm):
    llm = spelling_llm
    whole, before = llm.tokenizer.encode("The statement"), llm.tokenizer.encode("The sta")
    shared = next(i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b)
    assert shared < len(before)
    values = measured(logprob_of(["The sta"], ["tement"]), llm)
    assert values.num_tokens == len(whole) - shared
    np.testing.assert_allclose(values.sums, logprobs(llm, whole)[shared - 1 :].sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "answers", "says"),
    [
        ([[1, 2]], [[3], [4]], "2 answers for 1 prompts"),
        ([[1, 2]], [[]], "answer 0 is"),
        ([[]], [[3]], "begins at the first token"),
    ],
)
def test_wrong_answers_are_refused(llm, prompts, answers, says):
    with pytest.raises(fj.RequestError, match=says):
        logprob_of(prompts, answers).prompts(llm)


@pytest.mark.parametrize("metric", [nll, bits_per_byte, kl_from_baseline])
def test_no_texts_are_refused(metric):
    with pytest.raises(fj.RequestError, match="no texts"):
        metric([])


@pytest.mark.parametrize(
    ("found", "sums"),
    [(2, [2]), (np.float32(1.5), [1.5]), ([1, 2.5], [1, 2.5]), (np.arange(3), [0, 1, 2])],
)
def test_a_function_gives_a_number_or_one_for_each_document(found, sums):
    values = values_of(lambda llm, taps: found, None, None)  # type: ignore[arg-type]
    assert values.sums.tolist() == sums
    assert values.weights.tolist() == [1] * len(sums)


@pytest.mark.parametrize("found", ["abc", None, [[1.0]], [1, "x"], {"a": 1}])
def test_what_is_no_number_is_refused(found):
    with pytest.raises(fj.RequestError, match="it must give a number"):
        values_of(lambda llm, taps: found, None, None)  # type: ignore[arg-type]


def test_the_divergence_is_summed_over_the_vocabulary(llm, documents):
    other = llm.with_config(fj.edit_layers(llm.config, activation="relu"))
    values = kl_from_baseline(documents).against(llm)(other, None)
    by_hand = [divergence(llm, other, ids) for ids in documents]
    np.testing.assert_allclose(values.sums, by_hand, rtol=1e-4)
    assert values.weights.tolist() == [11, 6, 8]
    # It is no distance: the other way round it is another number.
    reverse = kl_from_baseline(documents).against(other)(llm, None)
    assert abs(reverse.value - values.value) > 1e-3 * values.value


def divergence(base, other, ids):
    """sum p (log p - log q) over the positions that predict a token of the text."""
    tables = []
    for llm in (base, other):
        logits = llm.logits(ids).astype(np.float64)[:-1]
        tables.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return (np.exp(tables[0]) * (tables[0] - tables[1])).sum()


def test_a_model_does_not_diverge_from_itself_and_an_edit_does(llm, documents):
    metric = kl_from_baseline(documents).against(llm)
    assert metric(llm, None).sums.tolist() == [0, 0, 0]
    assert (metric(llm, fj.edits.ablate_mlp(0)).sums > 1e-4).all()


def test_documents_are_held_a_group_at_a_time(llm, documents, monkeypatch):
    whole = kl_from_baseline(documents).against(llm)(llm, fj.edits.ablate_mlp(0))
    sizes, capture = [], llm.capture

    def counted(texts, *args, **options):
        sizes.append(len(texts))
        return capture(texts, *args, **options)

    monkeypatch.setattr(llm, "capture", counted)
    monkeypatch.setattr(divergence_module, "MOST_LOGITS", 20 * llm.config.vocab_size)
    parts = kl_from_baseline(documents).against(llm)(llm, fj.edits.ablate_mlp(0))
    assert sizes == [2, 2, 1, 1]
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-4)


def test_other_tokens_have_no_divergence(llm, spelling_llm, documents):
    with pytest.raises(fj.RequestError, match=r"vocabulary of 4096 tokens .* of 600"):
        kl_from_baseline(documents).against(llm)(spelling_llm, None)
