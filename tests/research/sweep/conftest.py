"""A tiny model, one that takes texts, and documents."""

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.tokenizer import load_tokenizer
from tests.runtime.models import VOCAB, model

ENGINE = fj.EngineConfig(
    page_size=8, num_pages=80, max_model_len=64, max_num_seqs=8, max_num_batched_tokens=32
)


@pytest.fixture(scope="package")
def llm():
    config = model("dense")
    with fj.LLM(config, init_params(config, seed=3), engine=ENGINE) as made:
        yield made


@pytest.fixture(scope="package")
def spelling_llm():
    """One that takes texts."""
    config = replace(model("dense"), vocab_size=4096)
    tokenizer = load_tokenizer(DEMO_MODEL)
    with fj.LLM(config, init_params(config, seed=3), tokenizer, engine=ENGINE) as made:
        yield made


@pytest.fixture(scope="session")
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB, size).tolist() for size in (12, 7, 9)]
