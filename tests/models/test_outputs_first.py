"""Weights laid out for steps of few rows: the same products, and made only where they pay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.outputs_first import OutputsFirst, copied_bytes, with_outputs_first
from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.runtime.few_rows import copies_fit, few_rows_params
from ferrum_jax.types import DeviceInfo
from tests.runtime.models import model

CPU = DeviceInfo(
    platform="cpu", kind="cpu", count=1, memory_bytes=None, free_bytes=10**9,
    compute_capability=None,
)  # fmt: skip
ENGINE = fj.EngineConfig(page_size=4, num_pages=64, max_model_len=64, max_num_seqs=4,
                         max_num_batched_tokens=128)  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_is_the_array_s(rows, dtype):
    x, w = (jax.random.normal(key, s).astype(dtype) for key, s in zip(
        jax.random.split(jax.random.key(0)), [(rows, 48), (48, 4, 10)], strict=True))  # fmt: skip
    laid = OutputsFirst(w.reshape(48, 40).T.astype(jnp.float32), shape=w.shape)
    exact = np.asarray(x, np.float64) @ np.asarray(w.reshape(48, 40), np.float64)
    found = jax.jit(lambda x, w: x @ w.reshape(48, -1))(x, laid)
    assert (found.dtype, found.shape) == (dtype, (rows, 40))
    tolerance = 2e-5 if dtype == jnp.float32 else np.abs(exact).max() * 2**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, atol=tolerance)
    sums = jax.jit(lambda x, w: w.product(x))(x, laid)
    assert sums.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(sums, np.float64), exact, atol=5e-5)


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_copied_and_what_is_shared(kind, tied):
    config = replace(model(kind), tie_embeddings=tied)
    params = init_params(config, seed=1)
    laid = with_outputs_first(params)
    own = {id(leaf) for leaf in jax.tree.leaves(params)}
    copied = [leaf for leaf in jax.tree.leaves(laid) if id(leaf) not in own]
    assert (
        sum(leaf.nbytes for leaf in copied)
        == copied_bytes({path: (s, "float32") for path, s in flatten_shapes(config).items()})
        > 0
    )
    assert (laid.unembed.values is params.embed) == tied
    for layer, plain in zip(laid.layers, params.layers, strict=True):
        assert layer.attention.qkv.shape == plain.attention.qkv.shape
        flat = np.asarray(plain.attention.o).reshape(-1, config.hidden_size)
        np.testing.assert_array_equal(layer.attention.o.values, flat.T)
        is_array = isinstance(layer.mlp.down, jax.Array)
        assert is_array == (kind == "moe"), "experts stay as they are"


@pytest.mark.parametrize("tied", [False, True])
def test_decoding_with_them_gives_the_logprobs_of_a_run_without(tied, monkeypatch):
    config = replace(model("dense"), tie_embeddings=tied)
    params = init_params(config, seed=2)
    wanted = fj.SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, logprobs=3)
    prompts = [[5, 6, 7 + i] for i in range(4)]

    def run():
        with fj.LLM(config, params, engine=ENGINE) as llm:
            assert llm.engine.executor._few_rows_params is not None
            outputs = [output.outputs[0] for output in llm.generate(prompts, wanted)]
            return llm.engine.executor._few_rows_params, outputs

    laid, found = run()
    assert isinstance(laid.unembed, OutputsFirst)
    monkeypatch.setattr("ferrum_jax.runtime.few_rows.SHARE", 0.0)
    plain, expected = run()
    assert not isinstance(plain.unembed, OutputsFirst)
    for a, b in zip(found, expected, strict=True):
        assert a.token_ids == b.token_ids
        ours, theirs = ([t[i].logprob for t, i in zip(c.logprobs, c.token_ids, strict=True)]
                        for c in (a, b))  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.usefixtures("optimised")
def test_scores_as_users_compile_them():
    """A loop over tokens with a tied head: XLA's layout of it is another where it optimises."""
    config = replace(model("dense"), tie_embeddings=True)
    prompt = list(range(3, 33))
    with fj.LLM(config, init_params(config, seed=2), engine=ENGINE) as llm:
        (score,) = llm.score([prompt])
        logprobs = jax.nn.log_softmax(llm.logits(prompt))
    expected = logprobs[np.arange(len(prompt) - 1), prompt[1:]]
    np.testing.assert_allclose(score.logprobs[1:], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("device", "engine", "fits"),
    [
        (CPU, ENGINE, True),
        (replace(CPU, free_bytes=None), ENGINE, True),
        (replace(CPU, free_bytes=399), ENGINE, False),
        (replace(CPU, platform="gpu"), ENGINE, False),
        (CPU, replace(ENGINE, batch_invariant=True), False),
        (CPU, replace(ENGINE, mesh=1), False),
    ],
)
def test_where_they_are_made(device, engine, fits):
    assert copies_fit(100, engine, device) == fits


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_rounded_projections_are_copied_as_what_they_stand_for(kind):
    config = model("dense")
    engine = replace(ENGINE, quantization=kind)
    with fj.LLM(config, init_params(config, seed=2), engine=engine) as llm:
        laid = few_rows_params(llm.params, engine, CPU)
        assert laid is not None
        for layer, plain in zip(laid.layers, llm.params.layers, strict=True):
            for name in ("gate_up", "down"):
                rounded = getattr(plain.mlp, name)
                flat = np.asarray(rounded).reshape(rounded.shape[0], -1)
                np.testing.assert_array_equal(getattr(layer.mlp, name).values, flat.T)
        # The full forward multiplies with the matrices as they are stored.
        prompt = list(range(3, 23))
        wanted = fj.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=0)
        (output,) = llm.generate([prompt], wanted)
        logits = llm.logits(prompt + output.outputs[0].token_ids)[19:-1]
    logprobs = jax.nn.log_softmax(logits)
    for place, (token, given) in enumerate(
        zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
    ):
        assert given[token].logprob == pytest.approx(float(logprobs[place, token]), abs=2e-5)
