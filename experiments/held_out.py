"""The text of the experiments: what experiment 001 held out of the demo model's training.

The same documents come out where the same Python (3.11.7) runs: `describe` has their hash.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import ferrum_jax as fj

sys.path.append(str(Path(__file__).parent / "001_demo_model"))
from corpus import held_out_documents, split_documents


@dataclass(frozen=True)
class HeldOut:
    """Documents as token ids, BOS first."""

    names: tuple[str, ...]
    ids: tuple[list[int], ...]
    spelled: tuple[str, ...]
    """the text of all their tokens but the first, which nothing predicts"""

    @property
    def sha256(self) -> str:
        """Of all texts, one after another."""
        return hashlib.sha256("".join(self.spelled).encode()).hexdigest()

    def describe(self) -> dict:
        """Which text it was; `documents` has the predicted tokens of each."""
        counts = [len(ids) - 1 for ids in self.ids]
        return {
            "documents": dict(zip(self.names, counts, strict=True)),
            "tokens": sum(counts),
            "bytes": sum(len(text.encode()) for text in self.spelled),
            "sha256": self.sha256,
        }


def read_held_out(llm: fj.LLM, length: int) -> HeldOut:
    """The first `length` tokens of every held-out document."""
    assert llm.tokenizer is not None
    documents = held_out_documents()
    ids = tuple(llm.encode(text)[:length] for _, text in documents)
    return HeldOut(
        names=tuple(name for name, _ in documents),
        ids=ids,
        spelled=tuple(llm.tokenizer.decode(tokens[1:]) for tokens in ids),
    )


def read_training(llm: fj.LLM, length: int, count: int) -> list[list[int]]:
    """The first `length` tokens of documents that the demo model was trained on, evenly picked."""
    training, _ = split_documents()
    return [
        llm.encode(d.text)[:length] for d in training[:: max(1, len(training) // count)][:count]
    ]
