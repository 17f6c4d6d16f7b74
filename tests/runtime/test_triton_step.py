"""The whole jitted step with interpreted kernels, beside the same engine in plain XLA."""

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.attention import gpu_attention
from ferrum_jax.models import init_params
from ferrum_jax.runtime import executor
from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    RopeConfig,
)
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = [needs_triton, allow_deprecated, pytest.mark.every_case]
BASE = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, rope=RopeConfig())
LATENT = MLAConfig(
    4, kv_rank=32, nope_dim=16, rope_dim=16, value_dim=16, scale=0.2, rope=RopeConfig()
)
SLOPES = (0.5, 0.25, 0.125, 0.0625)
MODELS = {
    "all kinds": (
        replace(BASE, window=6, sinks=True),
        replace(BASE, chunk=8, soft_cap=2.0),
        replace(BASE, rope=None, alibi_slopes=SLOPES),
        LATENT,
    ),
    "grouped and latent": (BASE, LATENT),
    "windowed": (replace(BASE, window=6, sinks=True),),
}
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=40, max_model_len=32, max_num_seqs=2, max_num_batched_tokens=8
)
PROMPTS = [[(7 * i + 11 * j) % 100 for j in range(n)] for i, n in enumerate((1, 13, 5))]
PARAMS = [
    fj.SamplingParams(max_tokens=3 + i % 3, temperature=0, logprobs=2, ignore_eos=True)
    for i in range(len(PROMPTS))
]


def run(monkeypatch, name: str, *, kernels: str | None, dtype: str = "float32", **settings):
    """Greedy continuations of prompts that meet in steps of prefill, decode and both."""
    layers = tuple(LayerSpec(attention, MLPConfig(48)) for attention in MODELS[name])
    config = ModelConfig("llama", 100, 32, layers, 64)
    if kernels is not None:
        bind = gpu_attention(kernels, interpret=True)
        monkeypatch.setattr(executor, "choose_attention", lambda *_, **__: bind)
    engine = replace(ENGINE, **settings)
    with fj.LLM(config, init_params(config, seed=3, dtype=dtype), None, engine=engine) as llm:
        outputs = llm.generate(PROMPTS, PARAMS)
    monkeypatch.undo()
    return [o.outputs[0] for o in outputs]


def chosen_logprobs(completion) -> list[float]:
    return [
        entry[token].logprob
        for token, entry in zip(completion.token_ids, completion.logprobs, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "settings", "tolerance"),
    [
        ("all kinds", {}, 2e-5),
        ("grouped and latent", {"kv_dtype": "int8"}, 2e-5),
        ("windowed", {"kv_dtype": "fp8", "dtype": "bfloat16"}, 0.05),
        ("windowed", {"dtype": "bfloat16"}, 0.05),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_tokens_and_logprobs_are_those_of_xla(monkeypatch, name, settings, tolerance):
    ours = run(monkeypatch, name, kernels="triton", **settings)
    theirs = run(monkeypatch, name, kernels=None, **settings)
    for a, b in zip(ours, theirs, strict=True):
        # The first tokens follow the same prompts, whatever rounding makes of the later ones.
        count = len(a.token_ids) if tolerance < 1e-3 else 1
        assert a.token_ids[:count] == b.token_ids[:count]
        ours_P, theirs_P = chosen_logprobs(a)[:count], chosen_logprobs(b)[:count]
        np.testing.assert_allclose(ours_P, theirs_P, rtol=0, atol=tolerance)


def test_batch_invariant_steps_have_the_same_bits(monkeypatch):
    """Whatever shares the batch."""
    settings = {"kernels": "triton", "batch_invariant": True}
    together = run(monkeypatch, "windowed", **settings)
    apart = run(monkeypatch, "windowed", max_num_seqs=1, **settings)
    for a, b in zip(together, apart, strict=True):
        assert a.token_ids == b.token_ids
        assert chosen_logprobs(a) == chosen_logprobs(b)
