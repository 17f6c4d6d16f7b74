import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.types.errors import RequestError

LOSSLESS = ["byte_level", "byte_fallback", "spm_legacy", "spm"]


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=80, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\0"), max_size=30)
)
def test_any_text_comes_back(loaded, kind, text):
    tokenizer = loaded[kind]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["word_piece", "unigram"])
def test_known_words_come_back(loaded, kind):
    tokenizer = loaded[kind]
    assert tokenizer.decode(tokenizer.encode("to be or not to be")) == "to be or not to be"


@pytest.mark.parametrize("kind", ["byte_level", "word_piece", "unigram", "byte_fallback"])
def test_special_tokens_in_the_text_are_split_out(loaded, kind):
    tokenizer = loaded[kind]
    (eos,) = tokenizer.eos_token_ids
    ids = tokenizer.encode("a<|im_end|>b", add_special_tokens=False)
    assert ids.count(eos) == 1
    assert "<|im_end|>" in tokenizer.decode(ids, skip_special_tokens=False)
    assert "<|im_end|>" not in tokenizer.decode(ids)


def test_the_post_processor_adds_bos(loaded):
    tokenizer = loaded["byte_level"]
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id
    assert tokenizer.encode("a", add_special_tokens=False)[0] != tokenizer.bos_token_id


@pytest.mark.parametrize("kind", ["spm", "spm_legacy"])
def test_sentencepiece_splits_special_and_added_tokens(loaded, kind):
    tokenizer = loaded[kind]
    ids = tokenizer.encode("<|im_start|>a<tool>b</s>")
    assert [i for i in ids if i in (1, 2, 600, 601)] == [1, 600, 601, 2]
    assert tokenizer.decode(ids).replace(" ", "") == "a<tool>b"
    assert tokenizer.vocab_size == 602
    assert tokenizer.token_text(600) == "<|im_start|>"
    assert tokenizer.token_text(1) == "<s>"


def test_legacy_gives_each_stretch_a_space_and_takes_it_away(loaded):
    def texts(kind):
        tokenizer = loaded[kind]
        ids = tokenizer.encode("be</s>be")
        return [tokenizer.token_text(i) for i in ids], tokenizer.decode(
            ids, skip_special_tokens=False
        )

    assert texts("spm_legacy") == (["<s>", "▁be", "</s>", "▁be"], "<s>be</s>be")
    assert texts("spm") == (["<s>", "▁be", "</s>", "b", "e"], "<s> be</s>be")


def test_without_legacy_no_lone_space_precedes_a_special_token(loaded):
    assert loaded["spm"].encode("</s>a")[:2] == [1, 2]


def test_bos_eos_and_prefix_space_are_as_configured(tmp_path, write_files, spm_bytes):
    config = {
        "add_bos_token": False,
        "add_eos_token": True,
        "add_prefix_space": False,
        "legacy": False,
    }
    write_files(tmp_path, tokenizer__model=spm_bytes, tokenizer_config__json=config)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("be")
    assert ids[-1] == 2
    assert 1 not in ids
    assert not tokenizer.token_text(ids[0]).startswith("▁")
    assert tokenizer.decode(ids) == "be"
    assert tokenizer.decode(tokenizer.encode("  be")) == "  be"


def test_stripping_and_whole_word_tokens(tmp_path, write_files, spm_bytes):
    added = {
        "500": {"content": "<mask>", "lstrip": True, "rstrip": True, "special": True},
        "501": {"content": "cat", "single_word": True},
        "502": {"content": "<m>"},
        "503": {"content": "<m><m>"},
    }
    config = {"legacy": False, "added_tokens_decoder": added}
    write_files(tmp_path, tokenizer__model=spm_bytes, tokenizer_config__json=config)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("be  <mask>  to")
    assert [tokenizer.token_text(i) for i in ids] == ["<s>", "▁be", "<mask>", "t", "o"]
    assert 501 in tokenizer.encode("a cat!")
    assert 501 not in tokenizer.encode("concatenate")
    assert [i for i in tokenizer.encode("<m><m><m>") if i > 499] == [503, 502]


def test_the_chat_template_gets_the_special_tokens(loaded):
    messages = [{"role": "user", "content": " hi "}]
    assert loaded["spm"].apply_chat_template(messages) == "<s>[user]hi[assistant]"
    assert loaded["byte_level"].apply_chat_template(messages, add_generation_prompt=False) == (
        "<|bos|>[user]hi"
    )


EVERY = ["byte_level", "word_piece", "unigram", "byte_fallback", "spm_legacy", "spm"]
EVERY += [
    f"trained/{kind}" for kind in ("bert", "qwen2", "kimi", "tekken", "llama", "pieces", "t5")
]


@pytest.mark.parametrize("kind", EVERY)
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(), max_size=40), length=st.integers(2, 12))
def test_any_text_is_encoded_or_refused(loaded, kind, text, length):
    """Over all of Unicode, lone surrogates and unassigned characters included."""
    tokenizer = loaded[kind]
    if any("\ud800" <= char <= "\udfff" for char in text):
        with pytest.raises(RequestError, match="lone surrogate"):
            tokenizer.encode(text)
        return
    ids = tokenizer.encode(text)
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
    assert isinstance(tokenizer.decode(ids), str)
    cut = tokenizer.encode(text, max_length=length)
    assert len(cut) == min(length, len(ids))
    plain = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text, add_special_tokens=False, max_length=length) == plain[:length]
