"""What of a text counts, where its tokens stand, and to which lengths rows are padded."""

from itertools import islice

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.fit import SoftPrompt, SteeringVector
from ferrum_jax.research.fit.texts import (
    Example,
    evaluation_batches,
    examples_of,
    make_batch,
    padded_length,
    training_batches,
)

PLAIN = SteeringVector(0)


def example(llm, text, trainable=PLAIN):
    return examples_of(llm, trainable, [text], "texts")[0]


def test_all_of_a_text_counts_but_its_first_token(llm):
    assert example(llm, [4, 5, 6]) == Example((4, 5, 6), first_counted=1, prompt_len=3)
    ids = llm.encode("import os")
    assert example(llm, "import os") == Example(tuple(ids), 1, len(ids))


def test_the_completion_of_a_pair_counts(llm):
    assert example(llm, ([4, 5], [6, 7, 8])) == Example((4, 5, 6, 7, 8), 2, 2)
    assert example(llm, ([], [6, 7])) == Example((6, 7), 1, 0)


def test_a_pair_of_texts_is_one_text(llm):
    found = example(llm, ("import", " os"))
    assert list(found.token_ids) == llm.encode("import os")
    assert found.first_counted == found.prompt_len == len(llm.encode("import"))


def test_a_token_across_the_border_is_the_completions(llm):
    whole = llm.encode("import")
    found = example(llm, ("imp", "ort"))
    assert list(found.token_ids) == whole
    assert found.first_counted < len(llm.encode("imp"))


def test_what_a_trainable_adds_is_not_counted(llm):
    soft = SoftPrompt(3, placeholder=9)
    assert example(llm, [4, 5, 6], soft) == Example((9, 9, 9, 4, 5, 6), 4, 6)
    assert example(llm, ([4, 5], [6]), soft) == Example((9, 9, 9, 4, 5, 6), 5, 5)


def test_rows_of_a_batch():
    batch = make_batch([Example((4, 5, 6), 1, 3), Example((7, 8), 1, 1)], rows=3)
    np.testing.assert_array_equal(batch.tokens[:, :4], [[4, 5, 6, 0], [7, 8, 0, 0], [0] * 4])
    np.testing.assert_array_equal(batch.positions[:, :4], [[0, 1, 2, 0], [0, 1, 0, 0], [0] * 4])
    np.testing.assert_array_equal(batch.mask[:, :4], [[0, 1, 1, 0], [0, 1, 0, 0], [0] * 4])
    np.testing.assert_array_equal(batch.prompt_lens[:, :4], [[3, 3, 3, 0], [1, 1, 0, 0], [0] * 4])
    assert batch.tokens.shape == (3, 16)


def test_lengths_are_few():
    assert {padded_length(n) for n in range(1, 129)} == {16, 32, 64, 128}
    assert all(padded_length(n) >= n for n in range(1, 300))


def test_every_epoch_holds_each_text_once():
    examples = [Example((i, i), 1, 2) for i in range(5)]

    def rows(seed):
        batches = islice(training_batches(examples, 2, seed), 5)
        return np.concatenate([batch.tokens[:, 0] for batch in batches]).tolist()

    first, second = rows(0)[:5], rows(0)[5:]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second
    assert rows(0) == rows(0) != rows(1)


def test_an_evaluation_holds_each_text_once():
    examples = [Example((i,) * (2 + i), 1, 2) for i in range(5)]
    batches = evaluation_batches(examples, 2)
    assert [batch.tokens.shape for batch in batches] == [(2, 16)] * 3
    assert sum(batch.mask.sum() for batch in batches) == sum(1 + i for i in range(5))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], r"texts is \[\]; give a list of texts"),
        ("one text", "give a list of texts"),
        ([4, 5], r"texts\[0\] is 4; give a text, a list of token ids, or a pair"),
        ([[4, 5], [6]], r"texts\[1\]: it has 1 token,.*leave it out"),
        ([([4, 5], [])], r"texts\[0\]: its completion has no token"),
        ([[4, 5000]], "token id 5000"),
        ([[1] * 65], r"texts\[0\] has 65 tokens; max_model_len = 64"),
    ],
)
def test_wrong_texts_say_so(llm, texts, message):
    with pytest.raises(fj.RequestError, match=message):
        examples_of(llm, PLAIN, texts, "texts")
