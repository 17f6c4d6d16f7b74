"""Products of bfloat16 that are summed in float32: the same values, and only where they pay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.outputs_first import MOST_ROWS, OutputsFirst
from ferrum_jax.models.wide_sums import FEWEST_ROWS, WideSums, with_wide_sums
from ferrum_jax.runtime import devices
from ferrum_jax.runtime.few_rows import most_few_rows, multiplies_wide
from tests.models.test_outputs_first import CPU
from tests.runtime.models import model

AMX = replace(CPU, multiplies_bfloat16=True)
ENGINE = fj.EngineConfig(page_size=4, num_pages=64, max_model_len=64, max_num_seqs=16,
                         max_num_batched_tokens=128)  # fmt: skip


def bfloat16_params(kind="dense", seed=2):
    config = model(kind)
    params = init_params(config, seed=seed)
    return config, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


@pytest.mark.parametrize("rows", [1, 5, 130])
def test_a_product_is_the_array_s_rounded_once(rows):
    x, w = (jax.random.normal(key, s).astype(jnp.bfloat16) for key, s in zip(
        jax.random.split(jax.random.key(0)), [(rows, 48), (48, 4, 10)], strict=True))  # fmt: skip
    exact = np.asarray(x, np.float64) @ np.asarray(w.reshape(48, 40), np.float64)
    found = jax.jit(lambda x, w: x @ w.reshape(48, -1))(x, WideSums(w))
    assert (found.dtype, found.shape) == (jnp.bfloat16, (rows, 40))
    error = np.abs(np.asarray(found, np.float64) - exact)
    assert np.all(error <= np.abs(exact) * 2**-8 + 1e-5), "half a place, and float32's own error"


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_no_weights_are_copied_and_experts_stay(kind):
    _, params = bfloat16_params(kind)
    wide = with_wide_sums(params)
    assert {id(x) for x in jax.tree.leaves(wide)} == {id(x) for x in jax.tree.leaves(params)}
    for layer, plain in zip(wide.layers, params.layers, strict=True):
        assert isinstance(layer.attention.qkv, WideSums)
        assert layer.attention.o.shape == plain.attention.o.shape
        assert isinstance(layer.mlp.down, WideSums) == (kind == "dense")


def test_where_they_are_used():
    _, params = bfloat16_params()
    float32 = init_params(model("dense"), seed=2)
    assert multiplies_wide(params, ENGINE, AMX)
    assert most_few_rows(multiplies_wide(params, ENGINE, AMX)) == FEWEST_ROWS - 1
    for settings, weights, device in (
        ({}, float32, AMX),
        ({}, params, replace(AMX, multiplies_bfloat16=False)),
        ({"batch_invariant": True}, params, AMX),
        ({"mesh": (2,)}, params, AMX),
    ):
        engine = replace(ENGINE, **settings)
        wide = multiplies_wide(weights, engine, device)
        assert not wide, settings
        assert most_few_rows(wide) == MOST_ROWS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse amx_bf16 amx_tile\n", jax.__version_info__ >= (0, 10)),
        ("processor\t: 0\nflags\t\t: fpu sse avx512_bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_which_processor_has_them(tmp_path, monkeypatch, text, found):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(devices, "CPUINFO", path)
    assert devices.device_info().multiplies_bfloat16 == found


def test_an_engine_with_them_gives_the_logprobs_of_one_without(monkeypatch):
    config, params = bfloat16_params()
    wanted = fj.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=3)
    prompts = [[5, 6, 7 + i, *range(8, 20)] for i in range(FEWEST_ROWS + 1)]

    def run(device):
        monkeypatch.setattr("ferrum_jax.runtime.engine.device_info", lambda: device)
        with fj.LLM(config, params, engine=ENGINE) as llm:
            outputs = [output.outputs[0] for output in llm.generate(prompts, wanted)]
            executor = llm.engine.executor
            used = {executor._params_for(shape) is executor._params for shape in llm.compilations}
            return executor, used, outputs

    wide, used, found = run(AMX)
    assert isinstance(wide._params.layers[0].mlp.down, WideSums)
    assert isinstance(wide._few_rows_params.layers[0].mlp.down, OutputsFirst)
    assert True in used
    plain, _, expected = run(replace(AMX, multiplies_bfloat16=False))
    assert not isinstance(plain._params.layers[0].mlp.down, WideSums)
    for a, b in zip(found, expected, strict=True):
        # The first token sees no rounding but that of its own layers; later ones follow their own.
        first, other = a.logprobs[0], b.logprobs[0]
        for token in set(first) & set(other):
            assert abs(first[token].logprob - other[token].logprob) < 0.03
