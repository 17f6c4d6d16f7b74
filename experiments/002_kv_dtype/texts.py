"""The text: what experiment 001 held out of the demo model's training, cut to the context.

The same documents come out where the same Python (3.11.7) runs: `results.json` has their hash.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ferrum_jax as fj

sys.path.append(str(Path(__file__).parent.parent / "001_demo_model"))
from corpus import held_out_documents


@dataclass(frozen=True)
class Texts:
    """R documents of up to T + 1 tokens; after a document's end stand zeros."""

    names: tuple[str, ...]
    tokens_RT: np.ndarray
    """int32 `[R, T]`: what goes in, BOS first"""
    targets_RT: np.ndarray
    """int32 `[R, T]`: the token after each"""
    lengths_R: np.ndarray
    """tokens of each document that have a target"""
    bytes_R: np.ndarray
    """UTF-8 bytes of the targets' text"""
    sha256: str
    """of the texts that the targets spell"""

    @property
    def mask_RT(self) -> np.ndarray:
        """Where there is a target."""
        return np.arange(self.tokens_RT.shape[1]) < self.lengths_R[:, None]


def read_texts(llm: fj.LLM, length: int) -> Texts:
    """The first `length` tokens of every held-out document, and their successors."""
    assert llm.tokenizer is not None
    documents = held_out_documents()
    ids = [llm.encode(text)[: length + 1] for _, text in documents]
    padded = np.zeros((len(ids), length + 1), np.int32)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = tokens
    spelled = [llm.tokenizer.decode(tokens[1:]) for tokens in ids]
    return Texts(
        names=tuple(name for name, _ in documents),
        tokens_RT=padded[:, :-1],
        targets_RT=padded[:, 1:],
        lengths_R=np.asarray([len(tokens) - 1 for tokens in ids]),
        bytes_R=np.asarray([len(text.encode()) for text in spelled]),
        sha256=hashlib.sha256("".join(spelled).encode()).hexdigest(),
    )
