"""LoRA in the joined weights, against a layer in which nothing is joined."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research.fit import LoRA
from ferrum_jax.research.fit.lora import TARGETS
from ferrum_jax.types import Activation, MLPConfig, MoEConfig
from tests.research.fit.models import ATTENTION, CONFIG

SMALL = replace(
    CONFIG,
    vocab_size=50,
    layers=(replace(CONFIG.layers[0], attention=replace(ATTENTION, rope=None)),) * 2,
)
TOKENS = [3, 14, 15, 9, 26]


def small_llm(config=SMALL, dtype="float32"):
    return fj.LLM(config, init_params(config, seed=4, dtype=dtype))


def random_value(lora, llm, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {name: x.shape for name, x in lora.init(llm, 0).items()}
    return {
        name: jnp.asarray(rng.normal(0, 0.3, shape), "float32") for name, shape in shapes.items()
    }


def unmerged_logits(llm, lora, value):
    """The model in numpy, each projection by itself, `x W + alpha / r (x A) B`."""
    params = llm.params

    def project(x, weights, layer, target):
        y = x @ np.asarray(weights).reshape(x.shape[-1], -1)
        if f"{layer}.{target}.a" in value:
            a, b = (np.asarray(value[f"{layer}.{target}.{m}"]) for m in "ab")
            y = y + lora.alpha / lora.rank * ((x @ a) @ b)
        return y

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(weight)

    x = np.asarray(params.embed)[TOKENS]
    count = len(TOKENS)
    for i, layer in enumerate(params.layers):
        p, h = layer.attention, norm(x, layer.mixer_norm.weight)
        q = project(h, p.q, i, "q").reshape(count, 4, 8)
        k, v = (project(h, w, i, t).reshape(count, 2, 8) for w, t in ((p.k, "k"), (p.v, "v")))
        k, v = np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1)
        scores = np.einsum("TNH,SNH->NTS", q, k) * 8**-0.5
        scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        z = np.einsum("NTS,SNH->TNH", weights, v).reshape(count, -1)
        x = x + project(z, p.o, i, "o")
        h = norm(x, layer.mlp_norm.weight)
        gate, up = (project(h, layer.mlp.gate_up[:, j], i, t) for j, t in enumerate(("gate", "up")))
        x = x + project(gate / (1 + np.exp(-gate)) * up, layer.mlp.down, i, "down")
    return norm(x, params.final_norm.weight) @ np.asarray(params.unembed)


@pytest.mark.parametrize("targets", [*((target,) for target in TARGETS), TARGETS], ids=str)
def test_merged_is_unmerged(targets):
    llm = small_llm()
    lora = LoRA(rank=3, alpha=6.0, targets=targets, layers=(1,) if len(targets) == 1 else None)
    value = random_value(lora, llm)
    merged = fj.LLM(SMALL, lora.merge(SMALL, llm.params, value))
    found = merged.logits(TOKENS)
    np.testing.assert_allclose(found, unmerged_logits(llm, lora, value), atol=1e-5)
    assert np.abs(found - llm.logits(TOKENS)).max() > 1e-2


@pytest.mark.parametrize("targets", [*((target,) for target in TARGETS), TARGETS], ids=str)
def test_requests_carry_it(targets):
    llm = small_llm()
    lora = LoRA(rank=3, alpha=6.0, targets=targets)
    value = random_value(lora, llm)
    adapter = fj.Taps(adapters=lora.adapters(SMALL, value))
    found = llm.logits(TOKENS, taps=adapter)
    merged = fj.LLM(SMALL, lora.merge(SMALL, llm.params, value)).logits(TOKENS)
    np.testing.assert_allclose(found, merged, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_starts_at_the_model_itself(dtype):
    llm = small_llm(dtype=dtype)
    lora = LoRA(rank=2, targets=TARGETS)
    value = lora.init(llm, 0)
    merged = lora.merge(SMALL, llm.params, value)
    for layer, before in zip(merged.layers, llm.params.layers, strict=True):
        np.testing.assert_array_equal(layer.attention.qkv, before.attention.qkv)
        np.testing.assert_array_equal(layer.attention.o, before.attention.o)
        np.testing.assert_array_equal(layer.mlp.gate_up, before.mlp.gate_up)
        np.testing.assert_array_equal(layer.mlp.down, before.mlp.down)
        assert layer.mlp.down.dtype == before.mlp.down.dtype
    assert all(np.abs(x).max() > 0 for name, x in value.items() if name.endswith(".a"))
    assert value["0.q.a"].shape == (32, 2)
    assert value["1.down.b"].shape == (2, 32)


def test_what_is_no_target_is_shared():
    llm = small_llm()
    lora = LoRA(targets="v", layers=1)
    merged = lora.merge(SMALL, llm.params, lora.init(llm, 0))
    assert merged.embed is llm.params.embed
    assert merged.layers[0].attention.qkv is llm.params.layers[0].attention.qkv
    assert merged.layers[1].mlp.down is llm.params.layers[1].mlp.down
    assert merged.layers[1].attention.o is llm.params.layers[1].attention.o


def test_an_mlp_without_a_gate():
    plain = MLPConfig(48, activation=Activation.RELU, gated=False)
    config = replace(SMALL, layers=(replace(SMALL.layers[0], mlp=plain),))
    llm = small_llm(config)
    lora = LoRA(rank=2, targets=("up",))
    value = random_value(lora, llm)
    merged = lora.merge(config, llm.params, value)
    change = 8 * np.asarray(value["0.up.a"]) @ np.asarray(value["0.up.b"])
    expected = np.asarray(llm.params.layers[0].mlp.gate_up[:, 0]) + change
    np.testing.assert_allclose(merged.layers[0].mlp.gate_up[:, 0], expected, atol=1e-5)
    with pytest.raises(fj.RequestError, match="has no gate; its targets are up and down"):
        LoRA(targets="gate").init(llm, 0)


def test_experts_are_refused_and_their_attention_is_not():
    config = replace(SMALL, layers=(replace(SMALL.layers[0], mlp=MoEConfig(4, 2, 16)),))
    llm = small_llm(config)
    with pytest.raises(fj.UnsupportedError, match=r"layer 0 is a mixture of experts.*q, k, v, o"):
        LoRA(targets=("q", "down")).init(llm, 0)
    assert set(LoRA(targets="o").init(llm, 0)) == {"0.o.a", "0.o.b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("q", "w")}, "name some of q, k, v, o, gate, up, down"),
        ({"targets": ("q", "q")}, "each once"),
        ({"targets": ()}, "targets is"),
        ({"rank": 0}, "rank is 0; give a number from 1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"layers": 2}, "layer 2 does not exist"),
    ],
)
def test_wrong_arguments_say_so(change, message):
    with pytest.raises(fj.RequestError, match=message):
        LoRA(**change).init(small_llm(), 0)
