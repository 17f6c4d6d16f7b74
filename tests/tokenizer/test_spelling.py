"""The bytes of tokens: end to end they are the text, for every kind of tokenizer that has them."""

from pathlib import Path

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.guided import GrammarCompiler
from ferrum_jax.tokenizer import load_tokenizer

TRAINED = Path(__file__).parent / "trained"
WITHOUT_BYTES = ("bert", "bert_cased", "word_piece")
KINDS = sorted(p.name for p in TRAINED.iterdir() if p.is_dir() and p.name not in WITHOUT_BYTES)
TEXT = "x = {'naïve': [1, 2]}\n\t# 你好, e\u0301 and two  spaces 😀"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_end_to_end_are_the_text(kind):
    tokenizer = load_tokenizer(TRAINED / kind)
    spelled = tokenizer.token_bytes()
    assert len(spelled) == tokenizer.vocab_size
    decode = getattr(tokenizer, "decode_uncleaned", tokenizer.decode)
    plain = [i for i in range(len(spelled)) if spelled[i] and i not in tokenizer.special_ids]
    rng = np.random.default_rng(0)
    draws = [rng.choice(plain, 12).tolist() for _ in range(200)]
    encoded = [i for i in tokenizer.encode(TEXT, add_special_tokens=False) if i in plain]
    for ids in (encoded, *draws):
        joined = b"".join(spelled[i] for i in ids)
        try:
            text = joined.decode("utf-8")
        except UnicodeDecodeError:
            continue  # what stands for broken characters differs between libraries
        assert decode(ids, skip_special_tokens=False) in (text, text.removeprefix(" "))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_guided(kind):
    tokenizer = load_tokenizer(TRAINED / kind)
    spelled = tokenizer.token_bytes()
    place = GrammarCompiler(tokenizer, tokenizer.eos_token_ids, 100_000).start({"regex": "[ab]+"})
    bits = np.unpackbits(place.allowed().view(np.uint8), bitorder="little")
    allowed = {spelled[i] for i in np.flatnonzero(bits)}
    assert allowed == {token for token in spelled if token and set(token) <= set(b"ab")}


@pytest.mark.parametrize("kind", WITHOUT_BYTES)
def test_what_joins_words_by_rules_of_its_own_is_refused(kind):
    with pytest.raises(fj.UnsupportedError, match="no bytes of their own"):
        load_tokenizer(TRAINED / kind).token_bytes()
