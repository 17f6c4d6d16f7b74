"""The demo model's tokenizer: a sentencepiece BPE over prose and code, and its Hugging Face files.

Text is kept exactly: no normalisation, no dummy prefix, no white space removed. Newlines and runs
of spaces are learned as ordinary pieces (the trainer gets blocks of lines, not single lines), so
that sentencepiece and the tokenizers library, which treat user-defined symbols differently, agree.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece as spm

VOCAB_SIZE = 4096
UNK, BOS, EOS = 0, 1, 2
BLOCK_CHARS = 2000


def train_tokenizer(texts: Iterable[str], **options: object) -> bytes:
    """Train on `texts` and return the bytes of `tokenizer.model`; `options` override settings."""
    settings: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": VOCAB_SIZE,
        "character_coverage": 0.9999,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "max_sentencepiece_length": 32,
        "max_sentence_length": 8 * BLOCK_CHARS,
        "unk_id": UNK,
        "bos_id": BOS,
        "eos_id": EOS,
        "pad_id": -1,
        "num_threads": 2,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=_blocks(texts), model_writer=model, **(settings | options)
    )
    return model.getvalue()


def load_tokenizer(model: bytes) -> spm.SentencePieceProcessor:
    """The tokenizer of the bytes of a `tokenizer.model`."""
    return spm.SentencePieceProcessor(model_proto=model)


def bytes_per_token(tokenizer: spm.SentencePieceProcessor, texts: Iterable[str]) -> float:
    """UTF-8 bytes of `texts` per token, BOS and EOS not counted."""
    pairs = [(len(text.encode()), len(tokenizer.encode(text))) for text in texts]
    return sum(size for size, _ in pairs) / sum(tokens for _, tokens in pairs)


def check_tokenizer(tokenizer: spm.SentencePieceProcessor, texts: Iterable[str]) -> None:
    """Raise ValueError unless ids are as declared and every text comes back exactly."""
    declared = (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id())
    if declared != (UNK, BOS, EOS) or tokenizer.vocab_size() > VOCAB_SIZE:
        raise ValueError(f"special ids {declared}, vocabulary {tokenizer.vocab_size()}")
    awkward = ["", " ", "\n", "  a", "a  ", "\n\n    x = 1\n", "\t\ttab", "é 漢字 🙂", "<s> </s>"]
    for text in [*awkward, *texts]:
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise ValueError(f"the tokenizer does not give back {text[:80]!r}")


def write_tokenizer(model: bytes, directory: Path) -> None:
    """Write `tokenizer.model` and the Hugging Face files that describe it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model)
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = specials | {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
    }
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False}
    _write_json(directory / "tokenizer_config.json", config)
    _write_json(directory / "special_tokens_map.json", specials)
    _write_json(directory / "generation_config.json", generation)


def _blocks(texts: Iterable[str]) -> Iterator[str]:
    """Blocks of whole lines; the trainer strips a block's last newline, so one more is added."""
    for text in texts:
        block = ""
        for line in text.splitlines(keepends=True):
            if block and len(block) + len(line) > BLOCK_CHARS:
                yield block
                block = ""
            block += line
        yield block


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
