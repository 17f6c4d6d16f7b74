"""Small models of architectures that are not attention and an MLP in each layer, for the tests of
this folder: golden cases of `tests/parity`."""

from __future__ import annotations

import tempfile
from functools import cache

import numpy as np

import ferrum_jax as fj
from tests.parity.golden import load_case, write_checkpoint

ENGINE = fj.EngineConfig(page_size=8, num_pages=20, max_num_seqs=2, max_num_batched_tokens=32)


@cache
def load(name: str) -> fj.LLM:
    """The model of a golden case."""
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(load_case(name), directory)
        return fj.LLM.load(directory, engine=ENGINE)


def prompt(llm: fj.LLM, count: int = 9, seed: int = 3) -> list[int]:
    """Token ids."""
    return np.random.default_rng(seed).integers(0, llm.config.vocab_size, count).tolist()
