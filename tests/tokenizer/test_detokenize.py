import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.interfaces.tokenizer import Tokenizer
from ferrum_jax.tokenizer import IncrementalDetokenizer

KINDS = ["byte_level", "word_piece", "unigram", "byte_fallback", "spm_legacy", "spm"]

PARTS = [
    "😀",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "한국어",
    "각",
    "e\u0301",
    "你好",
    " ",
    "  ",
    "a",
    " b",
    "\n",
    ".",
    "n't",
]

quick = settings(max_examples=60, deadline=None)


def stream(tokenizer, ids, **options):
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    pushes = [detokenizer.push(token_id) for token_id in ids]
    pushes.append(detokenizer.flush())
    assert detokenizer.text == "".join(pushes)
    return pushes


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(text=st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_valid_text_streams_without_replacement_characters(loaded, kind, text):
    tokenizer = loaded[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    pushes = stream(tokenizer, ids)
    assert "".join(pushes) == tokenizer.decode(ids)
    if kind in ("byte_level", "spm", "spm_legacy", "byte_fallback"):
        assert not any("\ufffd" in piece for piece in pushes)
        assert "".join(pushes) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
@quick
@given(data=st.data())
def test_any_ids_stream_to_the_whole_decode(loaded, kind, skip, data):
    tokenizer = loaded[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=60))
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(tokenizer, ids, skip_special_tokens=skip)) == whole


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "spm"])
@quick
@given(data=st.data())
def test_any_bytes_stream_to_the_whole_decode(loaded, kind, data):
    """Bytes that are no UTF-8, in long runs, with other tokens between them."""
    tokenizer = loaded[kind]
    byte_ids = _byte_ids(tokenizer)
    bytes_ = st.sampled_from([0x41, 0x80, 0x98, 0x9F, 0xBD, 0xC3, 0xE4, 0xF0, 0xFF])
    ids = data.draw(st.lists(bytes_.map(byte_ids.get), max_size=80))
    ids += data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def _byte_ids(tokenizer):
    """The id of the token for each single byte."""
    ids = {tokenizer.token_text(i): i for i in range(min(tokenizer.vocab_size, 300))}
    if "<0x00>" in ids:
        return {byte: ids[f"<0x{byte:02X}>"] for byte in range(256)}
    # Byte-level vocabularies spell printable bytes as themselves and the others from U+0100 on.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    names = {byte: chr(byte) for byte in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}
    return {byte: ids[name] for byte, name in names.items()}


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(data=st.data())
def test_the_completion_follows_the_prompt(loaded, kind, data):
    tokenizer = loaded[kind]
    text = data.draw(st.lists(st.sampled_from(PARTS), min_size=2, max_size=30).map("".join))
    ids = tokenizer.encode(text, add_special_tokens=False)
    cut = data.draw(st.integers(0, len(ids)))
    whole, prompt = tokenizer.decode(ids), tokenizer.decode(ids[:cut])
    if whole.startswith(prompt):  # false where the cut is inside a character
        pushes = stream(tokenizer, ids[cut:], prefix_ids=ids[:cut])
        assert prompt + "".join(pushes) == whole


@pytest.mark.parametrize("kind", ["spm", "spm_legacy", "unigram", "byte_fallback"])
def test_the_space_after_a_prompt_is_kept(loaded, kind):
    tokenizer = loaded[kind]
    prompt = tokenizer.encode("a a")
    completion = tokenizer.encode("a b")
    pushes = stream(tokenizer, completion, prefix_ids=prompt)
    assert "".join(pushes) == " a b"


def test_a_character_begun_in_the_prompt_comes_whole(loaded):
    for kind in ("byte_level", "spm", "byte_fallback"):
        tokenizer = loaded[kind]
        byte_ids = _byte_ids(tokenizer)
        prompt = tokenizer.encode("a", add_special_tokens=False)
        ids = [byte_ids[byte] for byte in "🫠!".encode()]
        text = "".join(stream(tokenizer, ids[2:], prefix_ids=prompt + ids[:2]))
        assert text == "🫠!", kind


def test_special_tokens_between_the_bytes_of_a_character(loaded):
    tokenizer = loaded["byte_level"]
    byte_ids = _byte_ids(tokenizer)
    first, *rest = (byte_ids[byte] for byte in "🫠".encode())
    ids = [first, *[tokenizer.bos_token_id, 10**6] * 20, *rest]
    assert stream(tokenizer, ids)[-2:] == ["🫠", ""]


def test_invalid_bytes_come_out_when_they_are_decided(loaded):
    tokenizer = loaded["byte_level"]
    byte_ids = _byte_ids(tokenizer)
    pushes = stream(tokenizer, [byte_ids[0xFF], byte_ids[0xE4], byte_ids[0x41], byte_ids[0xE4]])
    assert pushes == ["", "\ufffd", "\ufffdA", "", "\ufffd"]


class _Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.decoded = 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self._tokenizer.decode(ids, **options)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "spm"])
@pytest.mark.parametrize("byte", [0xFF, 0xE4, 0x41])
def test_the_cost_per_token_is_bounded(loaded, kind, byte):
    tokenizer = _Counting(loaded[kind])
    ids = [_byte_ids(loaded[kind])[byte]] * 2000
    stream(tokenizer, ids)
    assert tokenizer.decoded <= 20 * len(ids)


def test_straddling_tokens_keep_the_window_short(loaded):
    """Every token boundary lies inside a character, yet each character comes out in time."""
    byte_ids = _byte_ids(loaded["byte_level"])
    ids = [byte_ids[byte] for byte in ("😀" * 200).encode()]
    tokenizer = _Counting(loaded["byte_level"])
    assert "".join(stream(tokenizer, ids)) == "😀" * 200
    assert tokenizer.decoded <= 20 * len(ids)


def test_every_tokenizer_is_one(loaded):
    for tokenizer in loaded.values():
        assert isinstance(tokenizer, Tokenizer)
