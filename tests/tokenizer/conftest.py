"""Tiny tokenizers of every kind, trained on a few lines of text."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from ferrum_jax.tokenizer import load_tokenizer

LINES = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "def main(argv): return [x ** 2 for x in argv]",
    "Grüße aus Köln — 你好，世界。안녕하세요 세계",
    "emoji: 😀😀😀 👩‍👩‍👧‍👦 🇩🇪 e\u0301 n\u0303",
    "to be, or not to be: that is the question.  Two  spaces.",
] * 4

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _byte_level():
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|bos|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(LINES, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tok.token_to_id("<|bos|>"))]
    )
    return tok


def _word_piece():
    tok = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "<|bos|>", "<|im_end|>"], show_progress=False
    )
    tok.train_from_iterator(LINES, trainer)
    return tok


def _unigram():
    tok = tokenizers.Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<unk>", "<|bos|>", "<|im_end|>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tok.train_from_iterator(LINES, trainer)
    return tok


def _byte_fallback():
    """Like a Llama 2 tokenizer.json: sentencepiece's spaces and byte tokens in `tokenizers`."""
    words = ["<unk>", "<|bos|>", "<|im_end|>", "▁", "a", "b", "▁a", "▁b", "é", "你", "▁▁"]
    vocab = {w: i for i, w in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tok = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tok.add_special_tokens(["<|bos|>", "<|im_end|>"])
    return tok


JSON_KINDS = {
    "byte_level": _byte_level,
    "word_piece": _word_piece,
    "unigram": _unigram,
    "byte_fallback": _byte_fallback,
}


def train_sentence_piece(**options):
    model = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "hard_vocab_limit": False,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 3,
        "num_threads": 1,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


def write(directory, **files):
    """Write files into a directory; dicts as JSON, `__` in a name for the dot."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, dict):
            content = json.dumps(content)
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        (directory / name.replace("__", ".")).write_bytes(data)
    return directory


@pytest.fixture(scope="session")
def spm_bytes():
    return train_sentence_piece()


@pytest.fixture(scope="session")
def directories(tmp_path_factory, spm_bytes):
    """A Hugging Face directory per kind of tokenizer."""
    root = tmp_path_factory.mktemp("tokenizers")
    config = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    found = {
        name: write(root / name, tokenizer__json=make().to_str(), tokenizer_config__json=config)
        for name, make in JSON_KINDS.items()
    }
    for name, legacy in (("spm_legacy", True), ("spm", False)):
        spm_config = {
            "legacy": legacy,
            "chat_template": TEMPLATE,
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", "__type": "AddedToken"},
            "added_tokens_decoder": {
                "600": {"content": "<|im_start|>", "special": True},
                "601": {"content": "<tool>", "special": False},
            },
        }
        found[name] = write(
            root / name, tokenizer__model=spm_bytes, tokenizer_config__json=spm_config
        )
    return found


TRAINED = Path(__file__).parent / "trained"


@pytest.fixture(scope="session")
def loaded(directories):
    """A tokenizer per kind: those of above, and those that are kept as files."""
    kept = {f"trained/{path.name}": path for path in TRAINED.iterdir() if path.is_dir()}
    return {name: load_tokenizer(path) for name, path in (directories | kept).items()}


@pytest.fixture(scope="session")
def write_files():
    return write
