"""Vocabularies without a tokenizer.json: what is missing, cut or unknown is refused."""

import base64
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from ferrum_jax.tokenizer import has_tokenizer, load_tokenizer
from ferrum_jax.tokenizer import ranks as rank_files
from ferrum_jax.types.errors import TokenizerError

HERE = Path(__file__).parent / "trained"
FILES = {
    "kimi": "tiktoken.model",
    "glm4": "tokenizer.model",
    "named_pattern": "own.tiktoken",
    "gpt2": "vocab.json",
    "qwen2": "merges.txt",
    "bert": "vocab.txt",
    "t5": "spiece.model",
    "tekken": "tekken.json",
}


@pytest.fixture
def copied(tmp_path):
    """A copy of a kept directory, its tokenizer_config.json changed."""

    def copy(kind, **changes):
        directory = tmp_path / kind
        shutil.copytree(HERE / kind, directory)
        path = directory / "tokenizer_config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
        return directory

    return copy


@pytest.mark.parametrize("kind", sorted(FILES))
def test_a_directory_is_known_to_have_a_tokenizer(kind, tmp_path):
    assert has_tokenizer(HERE / kind)
    assert not has_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [b"", b"{", b"[]", b"\xff\xfe\x00", b"PK\x03\x04 zip", b"version https://git-lfs.github.com/spec/v1"],
    ids=["empty", "brace", "list", "binary", "zip", "lfs"],
)  # fmt: skip
@pytest.mark.parametrize("kind", sorted(FILES))
def test_another_format_under_the_name(copied, kind, bad):
    directory = copied(kind)
    (directory / FILES[kind]).write_bytes(bad)
    with pytest.raises(TokenizerError):
        load_tokenizer(directory)


@pytest.mark.parametrize("kind", sorted(set(FILES) - {"qwen2", "bert"}))
def test_a_file_cut_anywhere(copied, kind):
    directory = copied(kind)
    path = directory / FILES[kind]
    whole = path.read_bytes()
    for cut in (1, 60, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(TokenizerError):
            load_tokenizer(directory)


def test_a_vocabulary_cut_before_a_special_token(copied):
    directory = copied("bert", cls_token="[LAST]")
    with pytest.raises(TokenizerError, match=r"vocab\.txt is damaged: it has no \[LAST\]"):
        load_tokenizer(directory)


def test_merges_cut_in_a_line(copied):
    path = copied("qwen2") / "merges.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:40], "half"]), encoding="utf-8")
    with pytest.raises(TokenizerError, match="line 41 is not two tokens"):
        load_tokenizer(path.parent)
    path.write_text("\n".join(lines[:40]), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokens come from no merge"):
        load_tokenizer(path.parent)
    path.write_text("\n".join([*lines, "no such"]), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"does not fit merges\.txt"):
        load_tokenizer(path.parent)


@pytest.mark.parametrize("kind", ["kimi", "glm4", "gpt2", "bert"])
@pytest.mark.parametrize("name", ["HYTokenizer", "absent", None, 3])
def test_a_class_whose_pattern_is_not_known_is_refused(copied, kind, name):
    directory = copied(kind, tokenizer_class=name)
    with pytest.raises(TokenizerError, match=r"tokenizer_class .* is not known"):
        load_tokenizer(directory)


def test_the_model_type_stands_in_for_a_missing_class(copied):
    directory = copied("gpt2", tokenizer_class="absent")
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    assert load_tokenizer(directory).encode("the") == load_tokenizer(HERE / "gpt2").encode("the")


def ranks(*extra, first=0):
    tokens = [bytes([byte]) for byte in range(256)] + list(extra)
    lines = (f"{base64.b64encode(t).decode()} {first + i}\n" for i, t in enumerate(tokens))
    return "".join(lines).encode()


PATTERN = {"pat_str": r"\p{L}+|[^\p{L}]+"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (ranks()[:-18], "no token for the byte 0xFE"),
        (ranks(b"ab", b"ab"), "line 258 repeats"),
        (ranks(first=1), "line 1 .* leaves out a rank"),
        (ranks() + b"!!! 256\n", "line 257 is not a base64 text"),
        (ranks() + b"YWI= x\n", "line 257 is not a base64 text"),
        (ranks() + b"YWI=\n", "line 257 is not a base64 text"),
    ],
)
def test_damaged_ranks(tmp_path, write_files, data, says):
    write_files(tmp_path, a__tiktoken=data, tokenizer_config__json=PATTERN)
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(tmp_path)


def test_ranks_that_end_before_the_special_tokens_begin(tmp_path, write_files):
    config = {**PATTERN, "added_tokens_decoder": {"258": {"content": "<s>", "special": True}}}
    write_files(tmp_path, a__tiktoken=ranks(b"ab"), tokenizer_config__json=config)
    with pytest.raises(TokenizerError, match="ends at rank 256, and the next token has id 258"):
        load_tokenizer(tmp_path)
    write_files(tmp_path, a__tiktoken=ranks(b"ab", b"<s>"))
    with pytest.raises(TokenizerError, match="'<s>' has id 257"):
        load_tokenizer(tmp_path)
    write_files(tmp_path, b__tiktoken=ranks())
    with pytest.raises(TokenizerError, match="several rank files"):
        load_tokenizer(tmp_path)


def test_special_tokens_that_only_the_class_knows(tmp_path, write_files, monkeypatch):
    qwen = rank_files.RANK_PROFILES["QWenTokenizer"]
    write_files(
        tmp_path,
        qwen__tiktoken=ranks(b"ab"),
        tokenizer_config__json={"tokenizer_class": "QWenTokenizer"},
    )
    with pytest.raises(TokenizerError, match="next token has id 151643"):
        load_tokenizer(tmp_path)
    small = {"QWenTokenizer": dataclasses.replace(qwen, first_special=257)}
    monkeypatch.setattr(rank_files, "RANK_PROFILES", small)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("ab<|im_start|>1") == [256, 258, ord("1")]
    assert tokenizer.eos_token_ids == (257,)
    assert tokenizer.vocab_size == 257 + 3 + 205


def test_reserved_ids_are_special_tokens():
    tokenizer = load_tokenizer(HERE / "kimi")
    listed = json.loads((HERE / "kimi" / "tokenizer_config.json").read_text())
    first = min(map(int, listed["added_tokens_decoder"]))
    assert tokenizer.vocab_size == first + 256
    assert tokenizer.token_text(first + 255) == f"<|reserved_token_{first + 255}|>"
    assert tokenizer.decode([first + 255]) == ""


def test_ranks_know_how_glm4_begins_a_text():
    tokenizer = load_tokenizer(HERE / "glm4")
    assert [tokenizer.token_text(i) for i in tokenizer.encode("")] == ["[gMASK]", "<sop>"]


def test_byte_level_classes_keep_merges_that_look_like_comments(copied):
    directory = copied("gpt2")
    vocab = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    vocab["##"] = len(vocab)
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    with (directory / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("# #\n")
    assert vocab["##"] in load_tokenizer(directory).encode("##")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("special_tokens"), "files of the first version"),
        (lambda r: r.pop("config"), "KeyError: 'config'"),
        (lambda r: r["config"].update(pattern="(("), "its pattern is not one"),
        (lambda r: r["vocab"].pop(), "tokens besides 10 special ones, not 420"),
        (lambda r: r["vocab"][0].update(token_bytes="?"), "it is no"),
        (lambda r: r["vocab"].insert(0, r["vocab"][1]), "it repeats a token"),
        (lambda r: r["special_tokens"][0].update(rank=10), "outside its range"),
        (lambda r: r["config"].update(default_vocab_size=60), "no token for the byte"),
    ],
)
def test_a_damaged_tekken(copied, change, says):
    path = copied("tekken") / "tekken.json"
    record = json.loads(path.read_text())
    record["vocab"] = record["vocab"][:410]
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(path.parent)


def test_a_tekken_knows_its_ends(copied):
    directory = copied("tekken", add_bos_token="absent", bos_token="absent", eos_token="absent")
    tokenizer = load_tokenizer(directory)
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.token_text(9) == "<SPECIAL_9>"
