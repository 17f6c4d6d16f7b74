"""Products with bfloat16 and int8 weights as they are: float32's results, and what holds them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.narrow import MOST_ROWS_TURNED, narrow_product
from ferrum_jax.models.outputs_first import OutputsFirst, copied_bytes, kind_of, with_outputs_first
from ferrum_jax.models.params import path_name
from ferrum_jax.models.quantized import is_quantized, quantise_params
from ferrum_jax.runtime.few_rows import params_of_steps
from ferrum_jax.types import DataType
from tests.models.test_outputs_first import CPU, ENGINE
from tests.runtime.models import model

BOTH = (DataType.BFLOAT16, DataType.INT8)
AMX = replace(CPU, multiplies=BOTH, tiles=True)
AVX512 = replace(CPU, multiplies=BOTH)
LOST = {"float32": 2.0**-24, "bfloat16": 2.0**-16}
"""Of a row's largest input, of each of them, beside int8."""


def operands(rows, dtype, weights):
    """Inputs of several sizes, one row all zero, and weights with both ends of int8."""
    draws = np.random.default_rng(rows)
    x = draws.standard_normal((rows, 200)) * 10.0 ** draws.integers(-4, 4, (rows, 1))
    x[0, 3] = 40 * np.abs(x[0]).max()
    x[rows // 2 :: 7] = 0 if rows > 1 else x[rows // 2 :: 7]
    w = draws.integers(-127, 128, (48, 200))
    return jnp.asarray(x).astype(dtype), jnp.asarray(w).astype(weights)


@pytest.mark.parametrize("turned", [0, MOST_ROWS_TURNED])
@pytest.mark.parametrize("rows", [1, 2, 9, MOST_ROWS_TURNED + 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", [jnp.int8, jnp.bfloat16])
def test_a_product_is_exact_but_for_what_the_docs_say_is_lost(rows, dtype, weights, turned):
    x, w = operands(rows, dtype, weights)
    found = jax.jit(partial(narrow_product, turned_rows=turned))(x, w)
    assert (found.dtype, found.shape) == (jnp.float32, (rows, 48))
    x64, w64 = np.asarray(x, np.float64), np.asarray(w, np.float64)
    error = np.abs(np.asarray(found, np.float64) - x64 @ w64.T)
    float32 = 2.0**-22 * np.abs(x64) @ np.abs(w64).T
    lost = LOST[dtype] * np.abs(x64).max(1)[:, None] * np.abs(w64).sum(1)
    assert np.all(error <= float32 + (lost if weights == jnp.int8 else 0))


def test_sums_of_int8_do_not_depend_on_the_other_rows():
    x, w = operands(40, "float32", jnp.int8)
    together = jax.jit(narrow_product)(x, w)
    for row in (0, 17):
        alone = jax.jit(narrow_product)(x[row : row + 1], w)
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("weights", [jnp.int8, jnp.bfloat16])
def test_what_is_not_finite_stays_so_and_in_its_row(bad, weights):
    x, w = operands(4, "float32", weights)
    found = np.asarray(jax.jit(narrow_product)(x.at[1, 5].set(bad), w))
    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[[0, 2, 3]]).all()


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8", None])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_copies_hold_what_they_stand_for(kind, dtype, tied):
    config = replace(model("dense"), tie_embeddings=tied)
    params = jax.tree.map(lambda x: x.astype(dtype), init_params(config, seed=3))
    params = params if kind is None else quantise_params(params, kind)
    laid = with_outputs_first(params, BOTH)
    held = {"int8": "int8", "fp8": "bfloat16", None: dtype}.get(kind, "float32")
    for layer, plain in zip(laid.layers, params.layers, strict=True):
        copy, leaf = layer.mlp.down, plain.mlp.down
        assert copy.values.dtype == held
        scales = 1 if copy.scales is None else np.asarray(copy.scales)
        np.testing.assert_array_equal(
            np.asarray(copy.values, np.float32).T * scales, np.asarray(leaf).astype(np.float32)
        )
    assert laid.unembed.values.dtype == dtype
    assert (laid.unembed.values is params.embed) == tied
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
    kinds = {path_name(path): (leaf.shape, kind_of(leaf)) for path, leaf in leaves}
    own = {id(leaf) for leaf in jax.tree.leaves(params)}
    copied = [leaf for leaf in jax.tree.leaves(laid) if id(leaf) not in own]
    assert sum(leaf.nbytes for leaf in copied) == copied_bytes(kinds, BOTH) > 0


def test_the_inputs_factors_are_kept():
    params = quantise_params(init_params(model("dense"), seed=4), "int8")
    rounded = params.layers[0].mlp.down
    factors = jnp.linspace(0.5, 2, rounded.shape[0], dtype=jnp.float32)
    down = replace(rounded, factors=factors)
    first = replace(params.layers[0], mlp=replace(params.layers[0].mlp, down=down))
    laid = with_outputs_first(replace(params, layers=(first, *params.layers[1:])), BOTH)
    x = jax.random.normal(jax.random.key(0), (5, rounded.shape[0]))
    expected = np.asarray(x, np.float64) @ np.asarray(down, np.float64)
    np.testing.assert_allclose(x @ laid.layers[0].mlp.down, expected, atol=1e-5)


def test_what_multiplies_many_rows_and_in_which_form():
    """int8 in vectors is slower than its floats, where jax has no better way."""
    config = model("dense")
    of = {"int8": quantise_params(init_params(config), "int8"),
          "bfloat16": init_params(config, dtype="bfloat16")}  # fmt: skip
    used = {}
    for kind, params in of.items():
        for name, device in (("tiles", AMX), ("vectors", AVX512)):
            many, few = params_of_steps(params, ENGINE, device)
            copy = few.layers[0].mlp.down
            assert copy.values.dtype == kind
            used[kind, name] = (copy.turned_rows, isinstance(many.layers[0].mlp.down, OutputsFirst))
    assert used == {
        ("int8", "tiles"): (MOST_ROWS_TURNED, True),
        ("int8", "vectors"): (12, jax.__version_info__ >= (0, 12)),
        ("bfloat16", "tiles"): (MOST_ROWS_TURNED, True),
        ("bfloat16", "vectors"): (0, True),
    }


@pytest.mark.parametrize("device", [AMX, AVX512])
def test_an_engine_of_int8_gives_the_logprobs_of_the_full_forward(device, monkeypatch):
    """Chunks of many rows and steps of few; the forward turns the weights into floats."""
    monkeypatch.setattr("ferrum_jax.runtime.engine.device_info", lambda: device)
    config, prompt = model("dense"), [5 + i % 60 for i in range(90)]
    engine = replace(ENGINE, quantization="int8", max_model_len=128)
    with fj.LLM(config, init_params(config, seed=2), engine=engine) as llm:
        many, few = params_of_steps(llm.params, engine, device)
        every = few.layers[0].mlp.down.suits_many_rows
        assert isinstance(many.layers[0].mlp.down, OutputsFirst) == every
        assert many.unembed is None if config.tie_embeddings else not isinstance(
            many.unembed, OutputsFirst)  # fmt: skip
        assert isinstance(few.unembed, OutputsFirst)
        assert llm.engine.executor._few_rows_params.layers[0].mlp.down.values.dtype == jnp.int8
        wanted = fj.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=0)
        (output,) = llm.generate([prompt], wanted)
        logits = llm.logits(prompt + output.outputs[0].token_ids)[len(prompt) - 1 : -1]
    logprobs = jax.nn.log_softmax(logits)
    for place, (token, given) in enumerate(
        zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
    ):
        assert given[token].logprob == pytest.approx(float(logprobs[place, token]), abs=2e-5)
