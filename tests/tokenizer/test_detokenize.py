import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from ferrum_jax.interfaces.tokenizer import Tokenizer
from ferrum_jax.tokenizer import HuggingFaceTokenizer, IncrementalDetokenizer
from ferrum_jax.tokenizer.clean import CLEAN_UP, StreamCleaner, clean
from ferrum_jax.tokenizer.files import TokenizerFiles
from ferrum_jax.types.errors import UnsupportedError

TRAINED = ["bert", "glm4", "pieces", "pieces_bytes", "qwen2", "t5", "unigram"]
KINDS = [
    *("byte_level", "word_piece", "unigram", "byte_fallback", "spm_legacy", "spm"),
    *(f"trained/{name}" for name in TRAINED),
]
LOSSLESS = ["byte_level", "spm", "spm_legacy", "byte_fallback", "trained/glm4"]

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

quick = settings(max_examples=50, deadline=None)


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
    if kind in LOSSLESS:
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
    # False where the cut is inside a character, or between what a clean-up would replace.
    cleans = getattr(tokenizer, "replacements", ())
    if whole.startswith(prompt) and not cleans:
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
        self.decoded = self.characters = self.longest = 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def decode(self, ids, **options):
        return self._count(ids, self._tokenizer.decode(ids, **options))

    def decode_uncleaned(self, ids, **options):
        return self._count(ids, self._tokenizer.decode_uncleaned(ids, **options))

    def _count(self, ids, text):
        self.decoded += len(ids)
        self.characters += len(text)
        self.longest = max(self.longest, len(text))
        return text


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "spm"])
@pytest.mark.parametrize("byte", [0xFF, 0xE4, 0x41])
def test_the_cost_per_token_is_bounded(loaded, kind, byte):
    tokenizer = _Counting(loaded[kind])
    ids = [_byte_ids(loaded[kind])[byte]] * 2000
    stream(tokenizer, ids)
    assert tokenizer.decoded <= 20 * len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_of_a_stream_grows_in_proportion(loaded, kind):
    """Tokens decoded and characters made, for texts of one, two and four times the length."""
    text = "The quick  brown 😀 fox, isn't it? 你好 to be . or ' not ' e\u0301 한국어\n"
    work = []
    for times in (8, 16, 32):
        tokenizer = _Counting(loaded[kind])
        ids = loaded[kind].encode(text * times, add_special_tokens=False)
        pushes = stream(tokenizer, ids)
        assert "".join(pushes) == loaded[kind].decode(ids)
        assert tokenizer.decoded <= 20 * len(ids)
        assert tokenizer.longest <= 40 + 4 * len(text)
        work.append(tokenizer.characters / len(ids))
    assert max(work) <= 1.25 * min(work)


CLEANED = st.lists(
    st.sampled_from([" ", "'", ".", "n't", "'s", " '", "' ", "a", " 've", "?", " ,", "r", "e"]),
    max_size=30,
)


@quick
@given(pieces=CLEANED)
def test_a_cleaned_stream_is_the_cleaned_text(pieces):
    cleaner = StreamCleaner(CLEAN_UP)
    shown = [cleaner.push(piece) for piece in pieces]
    shown.append(cleaner.flush())
    assert "".join(shown) == clean("".join(pieces), CLEAN_UP)


def test_the_cleaner_holds_back_only_what_may_go():
    cleaner = StreamCleaner(CLEAN_UP)
    assert [cleaner.push(text) for text in ("a", " ", "b", " '", "x", " ", ".")] == [
        *("a", "", " b", "", " 'x", "", "."),
    ]


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


WORDS = (
    *("a</w>", "b</w>", "c", "a", ".", "n't", "'", "▁", "▁a", "▁▁", "▁b.", "##s", "##é", " x"),
    *("<0xE4>", "<0xBD>", "<0xA0>", "<0x41>", "<pad>", "|", "é", "  ", ",", "\n", "Ġ", "Ġa"),
    *("Ã", "©", "x "),
)
SPACES = decoders.Replace("▁", " ")
DECODERS = {
    "none": None,
    "bpe": decoders.BPEDecoder(),
    "byte level": decoders.ByteLevel(),
    "ctc": decoders.CTC(),
    "gemma": decoders.Sequence([SPACES, decoders.ByteFallback(), decoders.Fuse()]),
    "llama": decoders.Sequence(
        [SPACES, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "metaspace": decoders.Metaspace(),
    "metaspace first": decoders.Metaspace(prepend_scheme="first"),
    "word piece": decoders.WordPiece(),
    "word piece uncleaned": decoders.WordPiece(cleanup=False),
}


def of_decoder(decoder, **config):
    library = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a")
    )
    if decoder is not None:
        library.decoder = decoder
    files = TokenizerFiles(config, {}, (), {}, None, (), {})
    return HuggingFaceTokenizer(library, files)


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("cleans", [False, True])
@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, len(WORDS) - 1), max_size=40))
def test_every_decoder_of_the_library_streams(name, cleans, ids):
    tokenizer = of_decoder(DECODERS[name], clean_up_tokenization_spaces=cleans)
    assert bool(tokenizer.replacements) == cleans
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    assert "".join(stream(tokenizer, ids, skip_special_tokens=False)) == whole


@pytest.mark.parametrize(
    "last",
    [
        decoders.Strip(" ", 0, 1),
        decoders.Replace("a b", "ab"),
        decoders.Replace(tokenizers.Regex(" +"), " "),
    ],
)
def test_decoders_that_no_stream_can_equal_are_refused(last):
    of_decoder(decoders.Sequence([last, SPACES, decoders.Fuse()]))
    with pytest.raises(UnsupportedError, match="cannot be streamed"):
        of_decoder(decoders.Sequence([SPACES, decoders.Fuse(), last]))
