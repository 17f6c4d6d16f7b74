"""Text to token ids and back: tokenizer files, chat templates, streaming text, stop strings."""

from ferrum_jax.tokenizer.chat import ChatTemplates
from ferrum_jax.tokenizer.detokenize import IncrementalDetokenizer
from ferrum_jax.tokenizer.huggingface import HuggingFaceTokenizer
from ferrum_jax.tokenizer.load import has_tokenizer, load_tokenizer
from ferrum_jax.tokenizer.sentence_piece import SentencePieceTokenizer
from ferrum_jax.tokenizer.stops import StopMatcher

__all__ = [
    "ChatTemplates",
    "HuggingFaceTokenizer",
    "IncrementalDetokenizer",
    "SentencePieceTokenizer",
    "StopMatcher",
    "has_tokenizer",
    "load_tokenizer",
]
