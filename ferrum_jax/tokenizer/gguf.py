"""The tokenizer in a GGUF file's header, written as the files of a Hugging Face directory.

Two kinds: `gpt2`, a byte-level BPE with its merges, becomes tokenizer.json; `llama`, a
sentencepiece BPE with scores, becomes tokenizer.model. How a byte-level one cuts a text is told
by a name alone (`tokenizer.ggml.pre`); names that are not in the table here are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers

from ferrum_jax.tokenizer.ranks import THREE_DIGITS
from ferrum_jax.tokenizer.vocabulary import ONE_DIGIT, cut_bytes, put_ends
from ferrum_jax.types.errors import TokenizerError, UnsupportedError

PATTERNS: dict[str, tuple[str | None, bool]] = {
    "gpt-2": (None, False),
    "qwen2": (ONE_DIGIT, True),
    "llama-bpe": (THREE_DIGITS, False),
    "llama3": (THREE_DIGITS, False),
}
"""By `tokenizer.ggml.pre`: the pattern (None: GPT-2's own), and whether texts are put in NFC."""
CONTROL, USER_DEFINED = 3, 4
"""Of `tokenizer.ggml.token_type`, whose numbers are sentencepiece's."""
WITHOUT = "Without one, from_gguf(..., tokenizer=False), a model takes and returns token ids"

Value = Callable[..., Any]
"""A key of the header to its value, or a default."""


def write_tokenizer(value: Value, directory: Path, where: str) -> None:
    """Write the tokenizer's files, its chat template among them.

    Raises:
        UnsupportedError: another kind of tokenizer, or a way of cutting that is not known.
        TokenizerError: a part is missing, or they do not fit together.
    """
    kind, tokens = value("tokenizer.ggml.model"), value("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedError(
            f"{where}: its tokenizer is of the kind {kind!r}; gpt2 and llama are read. {WITHOUT}"
        )
    types = value("tokenizer.ggml.token_type", [1] * len(tokens))
    if len(types) != len(tokens):
        raise TokenizerError(f"{where}: {len(tokens)} tokens have {len(types)} types")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, token in _ends(value).items():
        config[f"{name}_token"] = tokens[token]
    if (template := value("tokenizer.chat_template")) is not None:
        config["chat_template"] = template
    if kind == "gpt2":
        _byte_level(value, tokens, types, where).save(str(directory / "tokenizer.json"))
    else:
        data = _sentence_piece(value, tokens, types, where)
        (directory / "tokenizer.model").write_bytes(data)
        config |= {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": False,
            "add_prefix_space": value("tokenizer.ggml.add_space_prefix", True),
            "add_bos_token": value("tokenizer.ggml.add_bos_token", True),
            "add_eos_token": value("tokenizer.ggml.add_eos_token", False),
            "added_tokens_decoder": {
                str(i): {"content": tokens[i], "special": types[i] == CONTROL}
                for i in range(len(tokens))
                if types[i] in (CONTROL, USER_DEFINED)
            },
        }
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _ends(value: Value) -> dict[str, int]:
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {name: value(f"tokenizer.ggml.{key}_token_id") for name, key in named.items()}
    return {name: token for name, token in found.items() if token is not None}


def _byte_level(
    value: Value, tokens: list[str], types: list[int], where: str
) -> tokenizers.Tokenizer:
    pre = value("tokenizer.ggml.pre", "gpt-2")
    if pre not in PATTERNS:
        raise UnsupportedError(
            f"{where}: how its tokenizer cuts a text is called {pre!r}; known are "
            f"{', '.join(PATTERNS)}. {WITHOUT}"
        )
    pattern, nfc = PATTERNS[pre]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in value("tokenizer.ggml.merges", [])]
    try:
        made = tokenizers.Tokenizer(
            models.BPE(vocab, merges, ignore_merges=pre.startswith("llama"))
        )
    except Exception as error:  # the library raises bare Exception for every fault
        raise TokenizerError(f"{where}: its merges do not fit its tokens ({error})") from error
    cut_bytes(made, pattern, add_prefix_space=False)
    if nfc:
        made.normalizer = normalizers.NFC()
    made.add_tokens(
        [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    ends = _ends(value)
    added = {
        name: tokens[ends[name]]
        for name in ("bos", "eos")
        if name in ends and value(f"tokenizer.ggml.add_{name}_token", False)
    }
    put_ends(made, added, vocab)
    return made


def _sentence_piece(value: Value, tokens: list[str], types: list[int], where: str) -> bytes:
    """The bytes of a tokenizer.model."""
    proto: Any = import_module("sentencepiece.sentencepiece_model_pb2")

    scores = value("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise TokenizerError(f"{where}: a llama tokenizer needs a score for each token")
    made = proto.ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        made.pieces.add(piece=token, score=score, type=kind)
    made.trainer_spec.model_type = proto.TrainerSpec.BPE
    made.trainer_spec.byte_fallback = any(kind == 6 for kind in types)
    made.trainer_spec.vocab_size = len(tokens)
    for name, token in _ends(value).items():
        setattr(made.trainer_spec, f"{name}_id", token)
        setattr(made.trainer_spec, f"{name}_piece", tokens[token])
    made.normalizer_spec.name = "identity"
    made.normalizer_spec.add_dummy_prefix = value("tokenizer.ggml.add_space_prefix", True)
    made.normalizer_spec.remove_extra_whitespaces = False
    return made.SerializeToString()
