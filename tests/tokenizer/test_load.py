import json
import os

import pytest

from ferrum_jax.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, load_tokenizer
from ferrum_jax.types.errors import RequestError, TokenizerError


def test_each_directory_gives_its_kind(loaded):
    assert isinstance(loaded["byte_level"], HuggingFaceTokenizer)
    assert isinstance(loaded["spm"], SentencePieceTokenizer)


def test_tokenizer_json_goes_first(tmp_path, directories, spm_bytes, write_files):
    text = (directories["unigram"] / "tokenizer.json").read_text()
    write_files(tmp_path, tokenizer__json=text, tokenizer__model=spm_bytes)
    assert isinstance(load_tokenizer(str(tmp_path)), HuggingFaceTokenizer)


def test_a_missing_file_names_the_remedy(tmp_path):
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
            load_tokenizer(directory)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe\x00", LFS])
def test_a_damaged_tokenizer_json(tmp_path, write_files, spm_bytes, bad):
    # A whole tokenizer.model beside it is not taken silently.
    write_files(tmp_path, tokenizer__json=bad, tokenizer__model=spm_bytes)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_cut_tokenizer_json(tmp_path, write_files, directories):
    whole = (directories["byte_level"] / "tokenizer.json").read_bytes()
    for cut in (1, 100, len(whole) // 2, len(whole) - 1):
        write_files(tmp_path, tokenizer__json=whole[:cut])
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("bad", [b"", b"{}", b"xxxx", b"\x0a", b"\x80" * 40, LFS, b'{"a": 1}'])
def test_a_damaged_tokenizer_model(tmp_path, write_files, bad):
    write_files(tmp_path, tokenizer__model=bad)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_model_cut_anywhere(tmp_path, write_files, spm_bytes):
    for cut in range(1, len(spm_bytes), 61):
        write_files(tmp_path, tokenizer__model=spm_bytes[:cut])
        with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
            load_tokenizer(tmp_path)


def test_a_json_tokenizer_under_the_other_name(tmp_path, write_files, directories, spm_bytes):
    text = (directories["unigram"] / "tokenizer.json").read_bytes()
    with pytest.raises(TokenizerError):
        load_tokenizer(write_files(tmp_path / "a", tokenizer__model=text))
    with pytest.raises(TokenizerError):
        load_tokenizer(write_files(tmp_path / "b", tokenizer__json=spm_bytes))


def test_a_directory_or_a_pipe_in_place_of_the_file(tmp_path):
    (tmp_path / "a" / "tokenizer.json").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "tokenizer.model")
    for name in "ab":
        with pytest.raises(TokenizerError, match="not a regular file"):
            load_tokenizer(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("tokenizer_config__json", b"{"),
        ("tokenizer_config__json", b"[1]"),
        ("tokenizer_config__json", b""),
        ("tokenizer_config__json", {"bos_token": 3}),
        ("tokenizer_config__json", {"chat_template": 3}),
        ("tokenizer_config__json", {"chat_template": [{"name": "x"}]}),
        ("tokenizer_config__json", {"added_tokens_decoder": {"x": {"content": "y"}}}),
        ("tokenizer_config__json", {"added_tokens_decoder": {"5": {}}}),
        ("special_tokens_map__json", b"\xff"),
        ("generation_config__json", {"eos_token_id": [1, -5]}),
        ("generation_config__json", {"eos_token_id": "x"}),
        ("config__json", b"[" * 100_000),
        ("chat_template__jinja", b""),
    ],
)
def test_damaged_files_beside_the_tokenizer(tmp_path, write_files, spm_bytes, name, bad):
    write_files(tmp_path, tokenizer__model=spm_bytes, **{name: bad})
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)


def test_several_eos_ids(tmp_path, write_files, spm_bytes):
    files = {
        "tokenizer__model": spm_bytes,
        "tokenizer_config__json": {"eos_token": "</s>"},
        "generation_config__json": {"eos_token_id": [7, 2, 9]},
        "config__json": {"eos_token_id": 4, "bos_token_id": 3},
    }
    assert load_tokenizer(write_files(tmp_path, **files)).eos_token_ids == (2, 7, 9)


def test_ids_come_from_config_json_where_nothing_else_has_them(tmp_path, write_files, directories):
    text = (directories["unigram"] / "tokenizer.json").read_text()
    config = {"eos_token_id": 4, "bos_token_id": 3}
    write_files(tmp_path, tokenizer__json=text, config__json=config)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (3, (4,))
    write_files(tmp_path, tokenizer_config__json={"bos_token": None})
    assert load_tokenizer(tmp_path).bos_token_id is None


def test_no_file_names_no_special_token(tmp_path, write_files, directories):
    text = (directories["unigram"] / "tokenizer.json").read_text()
    tokenizer = load_tokenizer(write_files(tmp_path, tokenizer__json=text))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (None, ())
    assert tokenizer.chat_template is None


def test_the_model_names_its_own_special_tokens(tmp_path, write_files, spm_bytes):
    tokenizer = load_tokenizer(write_files(tmp_path, tokenizer__model=spm_bytes))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert {0, 1, 2} <= tokenizer.special_ids


def test_chat_templates_of_every_place(tmp_path, write_files, spm_bytes):
    listed = [{"name": "default", "template": "one"}, {"name": "rag", "template": "two"}]
    config = {"chat_template": listed}
    write_files(tmp_path, tokenizer__model=spm_bytes, tokenizer_config__json=config)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == "one"
    assert tokenizer.apply_chat_template([], chat_template="rag") == "two"
    write_files(tmp_path, chat_template__jinja="{{ bos_token }}three")
    write_files(tmp_path / "additional_chat_templates", tool_use__jinja="four")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.apply_chat_template([]) == "<s>three"
    assert tokenizer.apply_chat_template([], tools=[{}]) == "four"


def test_listed_tokens_that_tokenizer_json_lacks(tmp_path, write_files, directories):
    text = (directories["unigram"] / "tokenizer.json").read_text()
    size = load_tokenizer(directories["unigram"]).vocab_size
    added = {str(size): {"content": "<tool>", "special": True}}
    write_files(
        tmp_path, tokenizer__json=text, tokenizer_config__json={"added_tokens_decoder": added}
    )
    tokenizer = load_tokenizer(tmp_path)
    assert size in tokenizer.encode("a<tool>b")
    assert size in tokenizer.special_ids
    added = {str(size + 5): {"content": "<tool>"}}
    write_files(tmp_path, tokenizer_config__json={"added_tokens_decoder": added})
    with pytest.raises(TokenizerError, match="different tokenizers"):
        load_tokenizer(tmp_path)


def test_truncation_and_padding_in_the_file_are_off(tmp_path, write_files, directories):
    spec = json.loads((directories["byte_level"] / "tokenizer.json").read_text())
    spec["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    write_files(tmp_path, tokenizer__json=spec)
    assert len(load_tokenizer(tmp_path).encode("a b c d e f g h")) > 3


def test_wrong_arguments_are_request_errors(loaded):
    for tokenizer in loaded.values():
        for text in (None, 3, "\ud800"):
            with pytest.raises(RequestError):
                tokenizer.encode(text)
        with pytest.raises(RequestError):
            tokenizer.decode([1, -1])
        for token_id in (-1, tokenizer.vocab_size):
            with pytest.raises(TokenizerError):
                tokenizer.token_text(token_id)
