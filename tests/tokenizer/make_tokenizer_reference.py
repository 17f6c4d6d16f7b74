"""Small tokenizers of every kind, and what transformers makes of texts with them.

    python tests/tokenizer/make_tokenizer_reference.py

Writes `trained/<kind>/` and `trained/golden.json`. Run where transformers, protobuf,
sentencepiece and tiktoken are installed. Two runs train slightly different tokenizers.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from operator import itemgetter
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

HERE = Path(__file__).parent / "trained"
LINES = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'm sure they've seen 1234 of them.",
    "def main(argv): return [x ** 2 for x in argv]  # two  spaces\n\tand a tab",
    "Grüße aus Köln — 你好，世界。안녕하세요 세계 こんにちは",
    "emoji: 😀😀😀 👩‍👩‍👧‍👦 🇩🇪 e\u0301 n\u0303",
    "to be, or not to be: that is the question.  'Tis nobler in the mind",
] * 4
TEXTS = [
    "",
    " ",
    "the fox",
    " the fox",
    "The quick  brown fox, isn't it?\n",
    "to be . or ' not ' to be , they 've n't",
    "x = [1234567, 89] ** 2\t# tab\r\n\r\n   end",
    "Köln 你好世界 안녕 こんにちは",
    "😀👩‍👩‍👧‍👦🇩🇪 e\u0301 \u1100\u1161\u11a8",
    "<|im_start|>the<|im_end|>\n <|im_end|> fox<tool>",
    "<s>fox</s> <tool>fox <tool> <mask> the",
    "unknown: \u0e01\u0e33 \U0001f9a4 \x00 ▁under",
    "HELLO Hello hELLO'S I'M",
]
CHAT = [
    {"role": "user", "content": "Grüße 😀"},
    {"role": "assistant", "content": "the fox 👩‍👩‍👧‍👦"},
    {"role": "user", "content": "to be?"},
    {"role": "assistant", "content": "or not"},
]
BYTES = pre_tokenizers.ByteLevel.alphabet()
ADDED = {
    "900": {"content": "<tool>", "special": False, "normalized": False},
    "901": {"content": "<mask>", "special": True, "lstrip": True, "normalized": False},
}
ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


def main() -> None:
    """Train, write, load again with transformers, and note what it gives."""
    shutil.rmtree(HERE, ignore_errors=True)
    for make in (
        _byte_level,
        _gpt2,
        _tekken,
        _classes,
        _listed,
        _qwen2,
        _word_piece,
        _bert,
        _unigram,
        _byte_fallback,
        _llama,
    ):
        make()
    cases = {}
    for directory in sorted(path for path in HERE.iterdir() if path.is_dir()):
        print(directory.name)
        cases[directory.name] = _case(directory)
    _sentence_piece(cases)
    _rank_files(cases)
    record = {
        "transformers": transformers.__version__,
        "texts": TEXTS,
        "chat": _chat(HERE / "byte_level"),
        "cases": cases,
    }
    text = json.dumps(record, ensure_ascii=True, separators=(",", ":"))
    (HERE / "golden.json").write_text(text.replace('"cases"', '\n"cases"') + "\n")


def _chat(directory: Path) -> dict[str, list[int]]:
    """Tokens of a conversation and the assistant's among them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    template = (HERE.parent / "templates" / "training.jinja").read_text(encoding="utf-8")
    encoded = tokenizer.apply_chat_template(
        CHAT, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    return {"ids": encoded["input_ids"], "mask": encoded["assistant_masks"]}


def _case(directory: Path) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.truncation_side = _config(directory).get("truncation_side", "right")
    ids = [tokenizer.encode(text) for text in TEXTS]
    plain = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    return {
        "class": type(tokenizer).__name__,
        "ids": ids,
        "plain": plain,
        "cut": [tokenizer.encode(text, truncation=True, max_length=5) for text in TEXTS],
        "text": [tokenizer.decode(one) for one in ids],
        "skipped": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "special": sorted(tokenizer.all_special_ids),
        "eos": tokenizer.eos_token_id,
    }


def _config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "tokenizer_config.json").read_text())


def _write(kind: str, config: dict[str, Any], **files: Any) -> None:
    directory = HERE / kind
    directory.mkdir(parents=True)
    files["tokenizer_config__json"] = config
    for name, content in files.items():
        if not isinstance(content, str | bytes):
            content = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        data = content if isinstance(content, bytes) else content.encode()
        (directory / name.replace("__", ".")).write_bytes(data)


def _trained_bytes(pattern: str | None, size: int = 420) -> tokenizers.Tokenizer:
    tok = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tok.pre_tokenizer = cut
    if pattern is not None:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        tok.pre_tokenizer = pre_tokenizers.Sequence([split, cut])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=BYTES, show_progress=False)
    tok.train_from_iterator(LINES, trainer)
    return tok


def _byte_level() -> None:
    """A tokenizer.json whose BOS and EOS only tokenizer_config.json asks for, as DeepSeek's."""
    tok = _trained_bytes(None)
    tok.add_special_tokens(["<s>", "</s>"])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": True,
        "clean_up_tokenization_spaces": True,
        "truncation_side": "left",
        **ENDS,
    }
    _write("byte_level", config, tokenizer__json=json.loads(tok.to_str()))


def _vocab_and_merges(tok: tokenizers.Tokenizer) -> dict[str, Any]:
    model = json.loads(tok.to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    return {"vocab__json": model["vocab"], "merges__txt": "\n".join(lines) + "\n"}


def _gpt2() -> None:
    files = _vocab_and_merges(_trained_bytes(None))
    files["vocab__json"]["<|endoftext|>"] = len(files["vocab__json"])
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
    _write("gpt2", config, **files)


def _classes() -> None:
    """The other classes of byte-level vocabularies."""
    for kind, name in (("gpt_neox", "GPTNeoXTokenizer"), ("codegen", "CodeGenTokenizer")):
        files = _vocab_and_merges(_trained_bytes(None, 380))
        for special in ("<|endoftext|>", "<|padding|>")[: 1 + (kind == "gpt_neox")]:
            files["vocab__json"][special] = len(files["vocab__json"])
        _write(kind, {"tokenizer_class": name}, **files)


def _listed() -> None:
    """Special and added tokens in files of their own, as older checkpoints have them."""
    files = _vocab_and_merges(_trained_bytes(None))
    first = len(files["vocab__json"])
    files["vocab__json"]["<|endoftext|>"] = first
    names = ["<|im_start|>", "<|im_end|>", "<tool>"]
    files["added_tokens__json"] = {name: first + 1 + i for i, name in enumerate(names)}
    files["special_tokens_map__json"] = {
        "eos_token": {"content": "<|im_end|>", "lstrip": False, "rstrip": False},
        "pad_token": "<|im_start|>",
    }
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    _write("listed", config, **files)


def _qwen2() -> None:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    files = _vocab_and_merges(_trained_bytes(PRETOKENIZE_REGEX))
    first = len(files["vocab__json"])
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special = {str(first + i): {"content": n, "special": True} for i, n in enumerate(names)}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": special,
        "additional_special_tokens": names[1:],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "add_bos_token": False,
    }
    _write("qwen2", config, **files)


def _trained_word_piece() -> tokenizers.Tokenizer:
    tok = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>"]
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=names, show_progress=False)
    tok.train_from_iterator(LINES, trainer)
    return tok


def _word_piece() -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": True,
        "unk_token": "[UNK]",
        **ENDS,
    }
    _write("word_piece", config, tokenizer__json=json.loads(_trained_word_piece().to_str()))


def _bert() -> None:
    vocab = _trained_word_piece().get_vocab()
    text = "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__))
    for kind, options in {
        "bert": {"clean_up_tokenization_spaces": True},
        "bert_cased": {"do_lower_case": False, "tokenize_chinese_chars": False},
    }.items():
        _write(kind, {"tokenizer_class": "BertTokenizer", **options}, vocab__txt=text)


def _unigram() -> None:
    tok = tokenizers.Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tok.train_from_iterator(LINES, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": True,
        "unk_token": "<unk>",
        **ENDS,
    }
    _write("unigram", config, tokenizer__json=json.loads(tok.to_str()))


def _byte_fallback() -> None:
    """A tokenizer.json in the manner of Llama 2: sentencepiece's spaces, tokens for bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = ["▁", "t", "h", "e", "f", "o", "x", "▁t", "▁th", "▁the", "fo", "fox", "▁▁", "é", "你"]
    vocab = {word: i for i, word in enumerate([*words, *pieces])}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("f", "o"), ("fo", "x"), ("▁", "▁")]
    tok = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **ENDS}
    _write("byte_fallback", config, tokenizer__json=json.loads(tok.to_str()))


def _trained_pieces(**options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.replace("\n", " ") for line in LINES),
        model_writer=model,
        **{
            "vocab_size": 400,
            "character_coverage": 0.98,
            "hard_vocab_limit": False,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "minloglevel": 3,
            "num_threads": 1,
            **options,
        },
    )
    return model.getvalue()


def _llama() -> None:
    data = _trained_pieces(model_type="bpe", byte_fallback=True)
    for kind, legacy in (("llama", True), ("llama_not_legacy", False)):
        config = {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": legacy,
            "add_bos_token": True,
            "add_eos_token": False,
            **ENDS,
        }
        _write(kind, config, tokenizer__model=data)


def _rank_files(cases: dict[str, Any]) -> None:
    """Rank files: what tiktoken gives, with the patterns as their checkpoints' code has them."""
    digits = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    end = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    start = r"[^\r\n\p{L}\p{N}]?"
    upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
    lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
    kimi = "|".join(
        [
            r"[\p{Han}]+",
            f"{start}{upper}*{lower}+{end}",
            f"{start}{upper}+{lower}*{end}",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    )
    model = json.loads(_trained_bytes(kimi, 460).to_str())["model"]
    letters = bytes_to_unicode()
    back = {letter: byte for byte, letter in letters.items()}
    ranks = {bytes(back[c] for c in token): i for token, i in model["vocab"].items()}
    lines = [
        f"{base64.b64encode(t).decode()} {i}" for t, i in sorted(ranks.items(), key=itemgetter(1))
    ]
    data = "\n".join(lines) + "\n"
    for kind, file, name, pattern, names in (
        ("kimi", "tiktoken__model", "TikTokenTokenizer", kimi, ["[BOS]", "<s>", "</s>"]),
        ("glm4", "tokenizer__model", "ChatGLM4Tokenizer", f"{words}|\\p{{N}}{{1,3}}|{digits}",
         ["<s>", "[gMASK]", "<sop>", "</s>"]),
        ("named_pattern", "own__tiktoken", None, f"{words}|\\p{{N}}|{digits}", ["<s>"]),
    ):  # fmt: skip
        ids = {n: len(ranks) + i for i, n in enumerate(names)}
        config = {
            "added_tokens_decoder": {
                str(i): {"content": n, "special": True} for n, i in ids.items()
            }
        }
        config |= {"tokenizer_class": name} if name else {"pat_str": pattern}
        _write(kind, config, **{file: data})
        encoding = tiktoken.Encoding(
            kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens=ids
        )
        encoded = [encoding.encode(text, allowed_special="all") for text in TEXTS]
        texts = [encoding.decode(one) for one in encoded]
        cases[kind] = {"texts": TEXTS, "plain": encoded, "text": texts}


def _tekken() -> None:
    """Mistral's tekken.json."""
    pattern = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    model = json.loads(_trained_bytes(pattern, 440).to_str())["model"]
    back = {letter: byte for byte, letter in bytes_to_unicode().items()}
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    data = [bytes(back[c] for c in token) for token in tokens]
    entries = [{"rank": i, "token_bytes": base64.b64encode(t).decode()} for i, t in enumerate(data)]
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<tool>"]
    record = {
        "config": {
            "pattern": pattern,
            "default_vocab_size": 410 + 10,
            "default_num_special_tokens": 10,
            "version": "v7",
        },
        "vocab": entries,
        "special_tokens": [{"rank": i, "token_str": n} for i, n in enumerate(names)],
    }
    config = {"tokenizer_class": "TokenizersBackend", "add_bos_token": True, **ENDS}
    _write("tekken", config, tekken__json=record)


def _sentence_piece(cases: dict[str, Any]) -> None:
    """Unigram models: what the sentencepiece library itself gives, which the files are for."""
    for kind, file, options in (
        ("pieces", "tokenizer__model", {"byte_fallback": False}),
        ("pieces_bytes", "tokenizer__model", {"byte_fallback": True}),
        ("t5", "spiece__model", {"byte_fallback": False, "remove_extra_whitespaces": True}),
    ):
        data = _trained_pieces(model_type="unigram", **options)
        name = "T5Tokenizer" if kind == "t5" else "LlamaTokenizer"
        _write(kind, {"tokenizer_class": name, "add_bos_token": False}, **{file: data})
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        texts = [text for text in TEXTS if "<s>" not in text]
        ids = [model.encode(text) for text in texts]
        cases[kind] = {"texts": texts, "plain": ids, "text": [model.decode(one) for one in ids]}


if __name__ == "__main__":
    main()
