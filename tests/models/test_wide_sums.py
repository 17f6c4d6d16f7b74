"""Products of bfloat16 that are summed in float32: the same values, and only where they pay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.outputs_first import OutputsFirst
from ferrum_jax.models.wide_sums import WideSums, with_wide_sums
from ferrum_jax.runtime import devices
from ferrum_jax.runtime.few_rows import params_of_steps
from ferrum_jax.types import DataType
from tests.models.test_outputs_first import CPU
from tests.runtime.models import model

AMX = replace(CPU, multiplies=(DataType.BFLOAT16, DataType.INT8), tiles=True)
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


def projections(params):
    return params.layers[0].attention.o, params.layers[0].mlp.down


def test_where_they_are_used():
    """With no room for copies; where there is room, both kinds of steps have the copies."""
    _, params = bfloat16_params()
    full = replace(AMX, free_bytes=0)
    many, few = params_of_steps(params, ENGINE, full)
    assert few is None
    assert all(isinstance(leaf, WideSums) for leaf in projections(many))
    many, few = params_of_steps(params, ENGINE, AMX)
    assert all(a is b and a.values.dtype == jnp.bfloat16
               for a, b in zip(projections(many), projections(few), strict=True))  # fmt: skip
    assert many.unembed is few.unembed
    for settings, device in (
        ({}, replace(full, multiplies=())),
        ({"batch_invariant": True}, AMX),
        ({"mesh": (2,)}, AMX),
    ):
        many, few = params_of_steps(params, replace(ENGINE, **settings), device)
        assert many is params, settings
        assert few is None, settings


def test_float32_has_copies_for_few_rows_only():
    params = init_params(model("dense"), seed=2)
    many, few = params_of_steps(params, ENGINE, AMX)
    assert all(a is b for a, b in zip(projections(many), projections(params), strict=True))
    assert all(leaf.values.dtype == jnp.float32 for leaf in projections(few))


@pytest.mark.parametrize(
    ("text", "found", "tiles"),
    [
        ("flags\t\t: fpu amx_bf16 amx_tile amx_int8 avx512_vnni\n", ("bfloat16", "int8"), True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", ("bfloat16",), True),
        ("flags\t\t: fpu avx512_bf16 avx512_vnni\n", ("bfloat16", "int8"), False),
        ("flags\t\t: fpu sse avx512_vnni\n", ("int8",), False),
        ("flags\t\t: fpu sse avx512f avx2\n", (), False),
        ("Features\t: fp asimd\n", (), False),
        (None, (), False),
    ],
)
def test_which_processor_has_them(tmp_path, monkeypatch, text, found, tiles):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text("processor\t: 0\n" + text)
    monkeypatch.setattr(devices, "CPUINFO", path)
    asked, device = jax.__version_info__ >= (0, 10), devices.device_info()
    assert device.multiplies == (found if asked else ())
    assert device.tiles == (tiles and asked)


@pytest.mark.parametrize("room", [True, pytest.param(False, marks=pytest.mark.one_jax)])
def test_an_engine_with_them_gives_the_logprobs_of_one_without(room, monkeypatch):
    config, params = bfloat16_params()
    wanted = fj.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=3)
    prompts = [[5, 6, 7 + i, *range(8, 20)] for i in range(10)]
    monkeypatch.setattr("ferrum_jax.runtime.few_rows.SHARE", 0.25 if room else 0.0)

    def run(device):
        monkeypatch.setattr("ferrum_jax.runtime.engine.device_info", lambda: device)
        with fj.LLM(config, params, engine=ENGINE) as llm:
            outputs = [output.outputs[0] for output in llm.generate(prompts, wanted)]
            return llm.engine.executor._params, outputs

    used, found = run(AMX)
    assert isinstance(used.layers[0].mlp.down, OutputsFirst if room else WideSums)
    used, expected = run(replace(AMX, multiplies=()))
    assert isinstance(used.layers[0].mlp.down, jax.Array)
    for a, b in zip(found, expected, strict=True):
        # The first token sees no rounding but that of its own layers; later ones follow their own.
        first, other = a.logprobs[0], b.logprobs[0]
        for token in set(first) & set(other):
            assert abs(first[token].logprob - other[token].logprob) < 0.03
