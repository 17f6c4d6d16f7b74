"""What bfloat16 costs, in nats, against what it costs in transformers on the same inputs.

The same weights, representable in bfloat16, run in float32 and in bfloat16; `bfloat16.json` has
transformers' figures (`make_bfloat16_reference.py`).
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

import ferrum_jax as fj
from tests.parity.golden import case_names, load_case, write_checkpoint
from tests.parity.random_weights import make_tokens

pytestmark = pytest.mark.every_case
REFERENCE = json.loads((Path(__file__).parent / "bfloat16.json").read_text())
MOST = 1.2
"""How many times transformers' divergence ours may be."""


def mean_kl(reference, other):
    """The mean over positions of KL(reference || other) from logits, in float64."""
    p, q = (log_softmax(x.astype(np.float64), axis=-1) for x in (reference, other))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def case_kls(name):
    """Ours for each seed of a case."""
    golden, found = load_case(name), REFERENCE["cases"][name]
    tensors = {key: (shape, "bfloat16") for key, (shape, _) in golden.tensors.items()}
    kls = []
    for seed in range(len(found["kl"])):
        ids = make_tokens("bfloat16", found["length"], golden.config["vocab_size"], seed).tolist()
        with tempfile.TemporaryDirectory() as directory:
            write_checkpoint(replace(golden, seed=seed, tensors=tensors), directory)
            exact, rounded = (
                fj.LLM.load(directory, dtype=dtype).logits(ids) for dtype in ("float32", "bfloat16")
            )
        kls.append(mean_kl(exact, rounded))
    return kls


def demo_kls():
    """Ours on each text, with the demo model."""
    exact, rounded = (fj.LLM.load("demo", dtype=dtype) for dtype in ("float32", "bfloat16"))
    return [mean_kl(exact.logits(ids), rounded.logits(ids)) for ids in REFERENCE["demo"]["tokens"]]


@pytest.mark.parametrize("name", REFERENCE["cases"])
def test_random_weights(name):
    """The mean over seeds: one sequence's figure moves by a fifth with the order of a sum."""
    ours, theirs = np.mean(case_kls(name)), np.mean(REFERENCE["cases"][name]["kl"])
    assert 0 < ours <= MOST * theirs


def test_the_demo_model():
    for ours, theirs in zip(demo_kls(), REFERENCE["demo"]["kl"], strict=True):
        assert 0 < ours <= MOST * theirs


def test_the_demo_model_in_its_engine():
    """Through a paged cache in bfloat16, in chunks."""
    engine = fj.EngineConfig(max_num_seqs=3, max_num_batched_tokens=64, num_pages=80)
    exact, rounded = (
        fj.LLM.load("demo", dtype=dtype, engine=engine) for dtype in ("float32", "bfloat16")
    )
    with exact, rounded:
        kld = fj.compare(exact, rounded, REFERENCE["demo"]["tokens"]).kld.value
    assert 0 < kld <= MOST * np.mean(REFERENCE["demo"]["kl"])


def test_every_model_type_without_a_router_is_there():
    types = {load_case(name).model_type for name in case_names()}
    measured = {load_case(name).model_type for name in REFERENCE["cases"]}
    routed = {load_case(n).model_type for n in case_names() if _is_routed(load_case(n))}
    assert measured >= types - routed
    assert len(measured) > 30


def _is_routed(golden):
    return any("expert" in name or "moe" in name for name in golden.tensors)
