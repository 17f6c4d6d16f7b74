"""The held-out documents as arrays: what goes in, and what is to be predicted."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ferrum_jax as fj

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out


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
    found = read_held_out(llm, length + 1)
    padded = np.zeros((len(found.ids), length + 1), np.int32)
    for row, tokens in enumerate(found.ids):
        padded[row, : len(tokens)] = tokens
    return Texts(
        names=found.names,
        tokens_RT=padded[:, :-1],
        targets_RT=padded[:, 1:],
        lengths_R=np.asarray([len(tokens) - 1 for tokens in found.ids]),
        bytes_R=np.asarray([len(text.encode()) for text in found.spelled]),
        sha256=found.sha256,
    )
