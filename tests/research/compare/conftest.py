"""Two small models of one shape, shared by the tests; their engines are too."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from tests.runtime.models import VOCAB, model

ENGINE = fj.EngineConfig(
    page_size=8, num_pages=60, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16
)
CONFIG = model("dense")
WEIGHTS = init_params(CONFIG, seed=3)


def make_llm(weights=WEIGHTS, config=CONFIG, **engine):
    return fj.LLM(config, weights, engine=replace(ENGINE, **engine))


def make_documents(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


def noisy(weights, scale):
    """The weights, each times a random number near 1."""
    leaves, structure = jax.tree.flatten(weights)
    rng = np.random.default_rng(1)
    changed = [x * (1 + scale * rng.standard_normal(x.shape)).astype(x.dtype) for x in leaves]
    return jax.tree.unflatten(structure, changed)


@pytest.fixture(scope="module")
def llm():
    return make_llm()


@pytest.fixture(scope="module")
def other():
    """The same model with weights that were disturbed by 5 %."""
    return make_llm(noisy(WEIGHTS, 0.05))


@pytest.fixture(scope="session")
def documents():
    return make_documents(23, 9, 2, 31)
