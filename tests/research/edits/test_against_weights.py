"""Every edit against a statement of its own: other weights, another model, or a numpy forward."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research.edits.operations import DrawUnits
from ferrum_jax.types import LayerSpec, MLPConfig, MoEConfig, NormKind, NormPlacement, Place
from tests.runtime.models import LAYERS, VOCAB, model

edits = fj.edits
RNG = np.random.default_rng(7)
PROMPT = RNG.integers(3, VOCAB, 14).tolist()
OTHER = RNG.integers(3, VOCAB, 14).tolist()
VECTOR = RNG.standard_normal(64).astype(np.float32)
FACTORS = RNG.standard_normal((4, 16)).astype(np.float32)
MEANS = {layer: RNG.standard_normal((4, 16)).astype(np.float32) for layer in (0, 1)}
close = partial(np.testing.assert_allclose, rtol=5e-5, atol=5e-5)


def sandwich():
    """Norms on q and k, before and after each block; tied, scaled embeddings; capped logits."""
    attention = replace(LAYERS["dense"][0].attention, qk_norm=NormKind.RMS, soft_cap=20.0)
    spec = replace(LAYERS["dense"][0], attention=attention, placement=NormPlacement.SANDWICH)
    return replace(
        model("dense"), layers=(spec, spec), tie_embeddings=True, embed_scale=8.0, final_soft_cap=9
    )


CONFIGS = {**{kind: model(kind) for kind in LAYERS}, "sandwich": sandwich()}
WEIGHTS = {kind: init_params(config, seed=3) for kind, config in CONFIGS.items()}


def logits(kind, taps=None, prompt=PROMPT):
    return fj.LLM(CONFIGS[kind], WEIGHTS[kind]).logits(prompt, taps=taps)


def logits_of(config, params, prompt=PROMPT):
    return fj.LLM(config, params).logits(prompt)


# The numpy forward


def rms_norm(x, weight):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight


def rotated(x_TNH):
    half = x_TNH.shape[-1] // 2
    angles = np.arange(len(x_TNH))[:, None] * 10_000.0 ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x_TNH[..., :half], x_TNH[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def softmax(x):
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def mixture(x, p, spec, tap):
    probs, out = softmax(tap("router", x @ p.router)), np.zeros_like(x)
    for t, row in enumerate(probs):
        best = np.argsort(-row, kind="stable")[: spec.experts_per_token]
        for e in best:
            hidden = silu(x[t] @ p.gate[e]) * (x[t] @ p.up[e])
            out[t] += row[e] / row[best].sum() * (hidden @ p.down[e])
    return out


def by_numpy(kind, change=lambda site, x, layer: x, prompt=PROMPT):
    """float64 logits of the plain kinds; `change(site, x, layer)` sees and returns every value."""
    config, p = CONFIGS[kind], jax.tree.map(lambda w: np.asarray(w, np.float64), WEIGHTS[kind])
    x, index = p.embed[prompt], np.arange(len(prompt))
    distance = index[:, None] - index
    for layer, (spec, w) in enumerate(zip(config.layers, p.layers, strict=True)):
        tap = partial(lambda site, x, layer: change(site, x, layer), layer=layer)
        x = tap("resid_pre", x)
        h, a = rms_norm(x, w.mixer_norm.weight), w.attention
        q = tap("q", rotated(np.einsum("TD,DNH->TNH", h, a.q)))
        k = tap("k", rotated(np.einsum("TD,DKH->TKH", h, a.k)))
        v = tap("v", np.einsum("TD,DKH->TKH", h, a.v))
        scores = np.einsum("TNH,SNH->TNS", q, np.repeat(k, 2, axis=1)) * spec.attention.scale
        seen = (distance >= 0) & (distance < (spec.attention.window or 999))
        pattern = tap("pattern", softmax(np.where(seen[:, None], scores, -np.inf)))
        z = tap("z", np.einsum("TNS,SNH->TNH", pattern, np.repeat(v, 2, axis=1)))
        x = tap("resid_mid", x + tap("attn_out", np.einsum("TNH,NHD->TD", z, a.o)))
        h, m = rms_norm(x, w.mlp_norm.weight), w.mlp
        if isinstance(spec.mlp, MoEConfig):
            out = mixture(h, m, spec.mlp, tap)
        else:
            pre = tap("mlp_pre", h @ m.gate_up[:, 0])
            out = tap("mlp_post", silu(pre) * (h @ m.gate_up[:, 1])) @ m.down
        x = tap("resid_post", x + tap("mlp_out", out))
    return change("logits", rms_norm(x, p.final_norm.weight) @ p.unembed, config.num_layers)


def record(kind, prompt=PROMPT):
    """Every value of a numpy run, by (site, layer)."""
    seen = {}

    def note(site, x, layer):
        seen[site, layer] = x
        return x

    by_numpy(kind, note, prompt)
    return seen


def at(site, layer, function):
    """A change at one place of the numpy forward."""
    return lambda s, x, i: function(x.copy()) if (s, i) == (site, layer) else x


def put(index, values):
    """A function that sets some of an array."""

    def change(x):
        x[index] = values
        return x

    return change


@pytest.mark.parametrize("kind", LAYERS)
def test_the_numpy_forward_is_the_model(kind):
    close(by_numpy(kind), logits(kind))


# Edits of weights


def changed(params, layer, part, **changes):
    """The weights with some of a layer's fields put through functions."""
    layers = list(params.layers)
    block = getattr(layers[layer], part)
    new = {name: change(getattr(block, name)) for name, change in changes.items()}
    layers[layer] = layers[layer].replace(**{part: block.replace(**new)})
    return params.replace(layers=tuple(layers))


def without_heads(params, pairs):
    for layer, head in pairs:
        params = changed(params, layer, "attention", o=lambda o, h=head: o.at[h].set(0))
    return params


def without_neurons(params, pairs):
    for layer, n in pairs:
        params = changed(params, layer, "mlp", down=lambda down, n=n: down.at[n].set(0))
    return params


def without_blocks(params, layers, *parts):
    for layer in layers:
        for part, name in parts:
            params = changed(params, layer, part, **{name: jnp.zeros_like})
    return params


def scaled(params, layers, part, name, factor):
    for layer in layers:
        params = changed(params, layer, part, **{name: lambda w: w * factor})
    return params


OUT, DOWN = ("attention", "o"), ("mlp", "down")
HEADS = [(0, 0), (1, 3), (0, 2)]
NEURONS = [(1, 5), (0, 7), (0, 159)]
OF_ANY = {
    "a head": (edits.ablate_heads([(0, 1)]), partial(without_heads, pairs=[(0, 1)])),
    "heads": (edits.ablate_heads(HEADS), partial(without_heads, pairs=HEADS)),
    "heads one by one": (
        sum((edits.ablate_heads([pair]) for pair in HEADS), fj.Taps()),
        partial(without_heads, pairs=HEADS),
    ),
    "an mlp": (edits.ablate_mlp(1), lambda p: without_blocks(p, [1], DOWN)),
    "all mlps": (edits.ablate_mlp(), lambda p: without_blocks(p, [0, 1], DOWN)),
    "a layer": (edits.ablate_layer([0]), lambda p: without_blocks(p, [0], OUT, DOWN)),
    "twice z": (edits.scale("z", 2.0), lambda p: scaled(p, [0, 1], *OUT, 2.0)),
    "z by unit": (
        edits.scale("z", FACTORS, layers=1),
        lambda p: scaled(p, [1], *OUT, FACTORS[..., None]),
    ),
}
OF_DENSE = {
    "neurons": (edits.ablate_neurons(NEURONS), partial(without_neurons, pairs=NEURONS)),
    "half": (edits.scale("mlp_post", 0.5, [0]), lambda p: scaled(p, [0], *DOWN, 0.5)),
}
CASES = [(kind, name) for kind in LAYERS for name in OF_ANY]
CASES += [("dense", name) for name in OF_DENSE]
# What a norm after the block does not undo.
CASES += [("sandwich", name) for name in (*OF_ANY, *OF_DENSE) if name not in ("twice z", "half")]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_an_edit_equals_other_weights(kind, name):
    taps, change = {**OF_ANY, **OF_DENSE}[name]
    edited = logits(kind, taps)
    close(edited, logits_of(CONFIGS[kind], change(WEIGHTS[kind])))
    assert np.abs(edited - logits(kind)).max() > 1e-3


def with_biases(kind="dense"):
    """The dense model with biases of its outputs, all zero: the same logits."""
    config = fj.edit_layers(CONFIGS[kind], out_bias=True, mlp_bias=True)
    params, zeros = WEIGHTS[kind], jnp.zeros(64)
    for layer in range(2):
        params = changed(params, layer, "attention", o_bias=lambda _: zeros)
        params = changed(
            params,
            layer,
            "mlp",
            down_bias=lambda _: zeros,
            gate_up_bias=lambda _: jnp.zeros((2, 160)),
        )
    return config, params


def biased(params, layer, part, vector):
    name = {"attention": "o_bias", "mlp": "down_bias"}[part]
    return changed(params, layer, part, **{name: lambda bias: bias + vector})


def test_means_are_biases():
    config, params = with_biases()
    means = {0: RNG.standard_normal(160), 1: RNG.standard_normal(160)}
    expected = {}
    heads = without_heads(params, HEADS)
    for layer, head in HEADS:
        o = params.layers[layer].attention.o[head]
        heads = biased(heads, layer, "attention", MEANS[layer][head] @ o)
    expected["heads"] = (edits.ablate_heads(HEADS, mean=MEANS), heads)
    listed = np.stack([MEANS[layer][head] for layer, head in HEADS])
    expected["listed"] = (edits.ablate_heads(HEADS, mean=listed), heads)
    neurons = without_neurons(params, NEURONS)
    for layer, neuron in NEURONS:
        row = params.layers[layer].mlp.down[neuron]
        neurons = biased(neurons, layer, "mlp", means[layer][neuron] * row)
    expected["neurons"] = (edits.ablate_neurons(NEURONS, mean=means), neurons)
    mlp = biased(without_blocks(params, [1], DOWN), 1, "mlp", VECTOR)
    expected["mlp"] = (edits.ablate_mlp(1, mean=VECTOR), mlp)
    for name, (taps, weights) in expected.items():
        close(logits("dense", taps), logits_of(config, weights), err_msg=name)


@pytest.mark.parametrize(
    ("taps", "part"),
    [
        (edits.steer(VECTOR, 0, scale=-1.5), "mlp"),
        (edits.steer(VECTOR, 0, scale=-1.5, site="mlp_out"), "mlp"),
        (edits.steer(VECTOR, 0, scale=-1.5, site="attn_out"), "attention"),
        (edits.steer(VECTOR, 0, scale=-1.5, site="resid_mid"), "attention"),
    ],
)
def test_steering_is_a_bias(taps, part):
    config, params = with_biases()
    close(logits("dense", taps), logits_of(config, biased(params, 0, part, -1.5 * VECTOR)))


def test_logits_can_be_scaled_and_shifted():
    shift = RNG.standard_normal(VOCAB).astype(np.float32)
    taps = edits.scale("logits", 0.5) + edits.steer(shift, None, site="logits")
    close(logits("sandwich", taps), 0.5 * logits("sandwich") + shift)


def test_the_order_of_composition():
    steer, double = edits.steer(VECTOR, 0), edits.scale("resid_post", 2.0, layers=0)
    first, second = logits("dense", steer + double), logits("dense", double + steer)
    close(first, by_numpy("dense", at("resid_post", 0, lambda x: 2 * (x + VECTOR))))
    close(second, by_numpy("dense", at("resid_post", 0, lambda x: 2 * x + VECTOR)))
    assert np.abs(first - second).max() > 0.1


# Positions

POSITIONS = {
    "prompt": ("prompt", range(9)),
    "generated": ("generated", range(9, 14)),
    "some generated": (edits.generated(1, 3), [10, 11]),
    "negative": (-1, [8]),
    "list": ([-9, 0, 12], [0, 12]),
    "runs": ([3, 4, -2], [3, 4, 7]),
    "slice": (slice(2, -3), range(2, 6)),
    "open slice": (slice(-2, None), range(7, 14)),
}


@jax.jit
def with_prompt_of_9(taps):
    """Logits of the 14 tokens, of which the last 5 count as generated."""
    index = jnp.arange(14)
    taps = taps.replace(place=Place(0 * index, index, jnp.full(14, 9)))
    params, config = WEIGHTS["windowed"], CONFIGS["windowed"]
    hidden, _ = fj.forward(
        params,
        jnp.asarray(PROMPT),
        index,
        None,
        config=config,
        attend=fj.dense_attention,
        taps=taps,
    )
    return fj.unembed(params, hidden, config, taps=taps)


@pytest.mark.parametrize(("positions", "tokens"), POSITIONS.values(), ids=POSITIONS)
def test_positions(positions, tokens):
    acting = list(tokens)
    change = at("resid_post", 0, lambda x: put(acting, x[acting] + 2 * VECTOR)(x))
    edited = with_prompt_of_9(edits.steer(VECTOR, 0, 2.0, positions=positions))
    close(edited, by_numpy("windowed", change))
    singly = [edits.steer(VECTOR, 0, 2.0, positions=int(p)) for p in acting]
    if len(singly) > 1:
        close(with_prompt_of_9(sum(singly[1:], singly[0])), edited)


# Patches


def test_patching_the_last_residual_of_every_token_gives_the_other_prompts_logits():
    resid = record("windowed", OTHER)["resid_post", 1]
    close(logits("windowed", edits.patch(resid, 1)), logits("windowed", prompt=OTHER))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("site", ["resid_pre", "k", "v", "z", "mlp_out"])
def test_a_patch_of_some_positions(kind, site):
    other, where = record(kind, OTHER), [5, 12, 6]
    edited = logits(kind, edits.patch(other[site, 1][[1, 2, 3]], 1, [5, -2, 6], site))
    close(edited, by_numpy(kind, at(site, 1, put(where, other[site, 1][[1, 2, 3]]))))
    before = np.abs(edited - logits(kind)).max(axis=1)
    assert before[:5].max() < 1e-5 < 1e-3 < before[5]


def test_one_position_and_some_heads():
    other = record("dense", OTHER)["z", 0]
    edited = logits("dense", edits.patch(other[3], 0, 3, "z", heads=[2, 0, 3]))
    close(edited, by_numpy("dense", at("z", 0, put((3, [2, 0, 3]), other[3, [2, 0, 3]]))))


def test_a_patch_of_mlp_sites():
    other = record("dense", OTHER)
    taps = edits.patch(other["mlp_pre", 0], 0, site="mlp_pre")
    taps += edits.patch(other["mlp_post", 1], 1, site="mlp_post")
    both = at("mlp_post", 1, lambda x: other["mlp_post", 1])
    pre = at("mlp_pre", 0, lambda x: other["mlp_pre", 0])
    expected = by_numpy("dense", lambda *place: both(place[0], pre(*place), place[2]))
    close(logits("dense", taps), expected)


# Attention


@pytest.mark.parametrize("kind", ["dense", "windowed"])
def test_ones_own_pattern_changes_nothing(kind):
    pattern = record(kind)["pattern", 0]
    close(logits(kind, edits.freeze_attention(pattern, 0)), logits(kind))


def test_a_uniform_pattern_is_the_mean_of_the_values_so_far():
    uniform = np.tril(np.ones((14, 14))) / np.arange(1, 15)[:, None]
    frozen = edits.freeze_attention(np.repeat(uniform[:, None], 4, axis=1), 1)
    v = np.repeat(record("dense")["v", 1], 2, axis=1)
    mean = np.cumsum(v, axis=0) / np.arange(1, 15)[:, None, None]
    close(logits("dense", frozen), by_numpy("dense", at("z", 1, lambda _: mean)))


def test_keys_behind_their_query_get_no_weight():
    everything = np.full((14, 4, 14), 0.25)
    expected = np.tril(np.full((14, 14), 0.25))[:, None] + np.zeros((1, 4, 1))
    edited = logits("dense", edits.freeze_attention(everything, 0))
    close(edited, by_numpy("dense", at("pattern", 0, lambda _: expected)))


def test_the_pattern_of_another_and_shorter_prompt_in_some_heads():
    other = record("windowed", OTHER[:6])["pattern", 0]
    index = (slice(0, 6), [3, 1], slice(0, 6))
    edited = logits("windowed", edits.freeze_attention(other, 0, heads=[3, 1]))
    close(edited, by_numpy("windowed", at("pattern", 0, put(index, other[:, [3, 1]]))))


# Experts


def only_experts(experts):
    """The sparse model with some of its experts alone."""
    config = fj.edit_layers(CONFIGS["moe"], num_experts=len(experts))
    params, index = WEIGHTS["moe"], np.asarray(experts)
    pick = {"router": lambda w: w[:, index]}
    pick |= dict.fromkeys(("gate", "up", "down"), lambda w: w[index])
    for layer in range(2):
        params = changed(params, layer, "mlp", **pick)
    return config, params


def _two_and_five(x):
    return jnp.where((jnp.arange(6) == 2) | (jnp.arange(6) == 5), x, -1e9)


@pytest.mark.parametrize("experts", [[2, 5], [4, 0, 1], range(6)])
def test_forced_experts_are_a_model_that_has_no_others(experts):
    close(logits("moe", edits.force_router(experts)), logits_of(*only_experts(list(experts))))


def test_forced_experts_by_a_function_and_by_a_patch():
    forced = logits("moe", edits.force_router([2, 5], layer=1))
    close(logits("moe", edits.custom("router", _two_and_five, layers=1)), forced)
    other = record("moe", OTHER)["router", 0]
    patched = logits("moe", edits.patch(other, 0, site="router"))
    close(patched, by_numpy("moe", at("router", 0, lambda _: other)))


def test_one_forced_expert_is_all_of_the_mixture():
    config = replace(
        CONFIGS["moe"],
        layers=tuple(
            LayerSpec(spec.attention, replace(spec.mlp, num_experts=1, experts_per_token=1))
            for spec in CONFIGS["moe"].layers
        ),
    )
    close(logits("moe", edits.force_router([3])), logits_of(config, only_experts([3])[1]))


# Functions


def _rotate(x, matrix, shift):
    return x @ matrix + shift


def test_a_function_of_ones_own():
    matrix, shift = RNG.standard_normal((16, 16)) / 4, RNG.standard_normal(16)
    taps = edits.custom("z", _rotate, matrix, shift, layers=1, positions=[2, -1])
    where = [2, 13]
    change = at("z", 1, lambda x: put(where, x[where] @ matrix + shift)(x))
    close(logits("dense", taps), by_numpy("dense", change))


# Resampling


def test_resampled_values_are_those_of_one_sample_drawn_by_seed_and_position():
    samples = {layer: RNG.standard_normal((5, 4, 16)) for layer in (0, 1)}
    seen = {}

    def captured(seed, prompt=PROMPT, heads=((1, 2), (0, 3), (1, 0))):
        taps = edits.ablate_heads(heads, resample=samples, seed=seed)
        values = values_of(taps + fj.Taps(capture=("z",)), jnp.asarray(prompt))["z"]
        distance = np.abs(samples[1][:, 2] - values[1][:, None, 2]).max(axis=-1)
        drawn = distance.argmin(axis=1)
        for layer, head in heads:
            close(values[layer][:, head], samples[layer][drawn, head])
        return drawn.tolist()

    seen = captured(1)
    assert captured(1, prompt=OTHER[::-1]) == captured(1, heads=[(1, 2), (0, 1), (0, 0)]) == seen
    assert captured(2) != seen
    assert len(set(seen)) > 2


def test_other_heads_stay_what_they_are():
    samples = {0: RNG.standard_normal((3, 160)), 1: RNG.standard_normal((3, 160))}
    drawn = edits.ablate_neurons([(0, 4), (1, 9)], resample=samples, positions=[3])
    values = values_of(drawn + fj.Taps(capture=("mlp_post",)), jnp.asarray(PROMPT))["mlp_post"]
    plain = record("dense")["mlp_post", 0]
    elsewhere = np.ones(plain.shape, bool)
    elsewhere[3, 4] = False
    close(values[0][elsewhere], plain[elsewhere])
    assert np.abs(samples[0][:, 4] - values[0][3, 4]).min() < 1e-6


@jax.jit
def values_of(taps, tokens):
    """What a dense forward captures."""
    index = jnp.arange(len(tokens))
    return fj.forward_capture(
        WEIGHTS["dense"],
        tokens,
        index,
        None,
        config=CONFIGS["dense"],
        attend=fj.dense_attention,
        taps=taps,
    )[2]


def test_draws_are_uniform():
    """Chi-squared over 7 samples and 4,000 places: below the 99.9 % quantile of 6 degrees."""
    positions = jnp.arange(4000)
    draw = DrawUnits("neuron")
    samples = jnp.broadcast_to(jnp.arange(8.0), (1, 1, 8))
    values = {
        "units": jnp.zeros((1, 1, 2), int),
        "samples": samples,
        "count": jnp.asarray([7]),
        "seed": jnp.asarray([5], jnp.uint32),
    }
    place = Place(0 * positions, positions, 0 * positions + 4000)
    drawn = np.asarray(draw(jnp.full((4000, 1), -1.0), values, place, 0))[:, 0]
    counts = np.bincount(drawn.astype(int), minlength=7)
    assert counts.shape == (7,)
    assert np.sum((counts - 4000 / 7) ** 2 / (4000 / 7)) < 22.46


# Between prompts


@pytest.fixture(scope="module")
def llm():
    engine = fj.EngineConfig(
        page_size=8, num_pages=40, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=32
    )
    return fj.LLM(CONFIGS["dense"], WEIGHTS["dense"], engine=engine)


def test_a_swap_is_a_patch_of_what_the_source_computes(llm):
    other = record("dense", OTHER)
    taps = edits.swap(llm, OTHER, 0, [3, -1], source_positions=[2, 5])
    change = at("resid_post", 0, put([3, 13], other["resid_post", 0][[2, 5]]))
    close(llm.logits(PROMPT, taps=taps), by_numpy("dense", change))
    taps = edits.swap(llm, OTHER, [1], -1, "z", heads=[1])
    close(
        llm.logits(PROMPT, taps=taps),
        by_numpy("dense", at("z", 1, put((13, [1]), other["z", 1][13, [1]]))),
    )
    whole = edits.swap(llm, OTHER[:9], 1)
    close(llm.logits(PROMPT, taps=whole)[:9], llm.logits(OTHER[:9]))


def test_a_swap_takes_the_edited_source(llm):
    taps = edits.swap(llm, OTHER, 1, taps=edits.steer(VECTOR, 0))
    expected = by_numpy("dense", at("resid_post", 0, lambda x: x + VECTOR), OTHER)
    close(llm.logits(PROMPT, taps=taps), expected)


def direct_change(senders, where=slice(None)):
    """What the senders' swap adds to the residual stream if nothing in between reacts."""
    own, other, delta = record("dense"), record("dense", OTHER), np.zeros((14, 64))
    for layer, head in senders:
        o = np.asarray(WEIGHTS["dense"].layers[layer].attention.o[head], np.float64)
        delta[where] += (other["z", layer] - own["z", layer])[where, head] @ o
    return delta


@pytest.mark.parametrize("senders", [[(0, 1)], [(0, 0), (1, 3), (0, 2)]])
def test_the_direct_path_to_the_logits(llm, senders):
    taps = edits.path_patch(llm, PROMPT, OTHER, senders)
    delta = direct_change(senders)
    close(
        llm.logits(PROMPT, taps=taps), by_numpy("dense", at("resid_post", 1, lambda x: x + delta))
    )
    total = fj.Taps()
    for layer, head in senders:
        total += edits.swap(llm, OTHER, layer, site="z", heads=head)
    assert np.abs(llm.logits(PROMPT, taps=total) - llm.logits(PROMPT, taps=taps)).max() > 1e-2


def test_the_direct_path_to_a_head(llm):
    """Through a query, and from there on as the model goes; only some positions are swapped."""
    where, arrived = [4, 9, 13], {}
    delta = direct_change([(0, 1), (0, 2)], where)

    def arriving(site, x, layer):
        if (site, layer) == ("resid_pre", 1):
            return x + delta
        arrived[site, layer] = x
        return x

    by_numpy("dense", arriving)
    senders, receivers = [(0, 1), (0, 2)], {"q": [(1, 2)], "mlp_pre": [0]}
    taps = edits.path_patch(llm, PROMPT, OTHER, senders, {"q": [(1, 2)]}, positions=where)
    expected = by_numpy("dense", at("q", 1, put((slice(None), 2), arrived["q", 1][:, 2])))
    close(llm.logits(PROMPT, taps=taps), expected)
    assert np.abs(expected - logits("dense")).max() > 1e-3
    assert set(edits.path_patch(llm, PROMPT, OTHER, senders, receivers).edits) == set(receivers)


def test_a_sender_after_its_receiver_changes_nothing(llm):
    taps = edits.path_patch(llm, PROMPT, OTHER, [(1, 0)], {"q": [0], "v": [(1, 1)]})
    close(llm.logits(PROMPT, taps=taps), llm.logits(PROMPT))


# In the pure function


@pytest.mark.parametrize("function", [lambda x: x[:3], lambda x: x * jnp.ones(5)])
def test_a_function_that_does_not_keep_the_patterns_shape_is_refused(function):
    with pytest.raises(fj.RequestError, match=r"function of the edit at pattern, layer 0"):
        logits("dense", edits.custom("pattern", function))


def test_a_pattern_is_frozen_in_every_sequence_of_a_batch():
    frozen = edits.freeze_attention(record("dense", OTHER)["pattern", 0], 0)
    tokens, index = jnp.asarray(OTHER[:5] + PROMPT), jnp.asarray([*range(5), *range(14)])
    run = partial(fj.forward, WEIGHTS["dense"], config=CONFIGS["dense"], attend=fj.dense_attention)
    together, _ = run(tokens, index, None, taps=frozen)
    alone, _ = run(jnp.asarray(PROMPT), jnp.arange(14), None, taps=frozen)
    close(together[5:], alone)


def test_what_a_model_never_reaches_is_an_error():
    with pytest.raises(fj.ModelError, match=r"never reaches the site\(s\) router"):
        values_of(edits.force_router([0]), jnp.asarray(PROMPT))
    with pytest.raises(fj.ModelError, match=r"'logits' need to know where the tokens stand"):
        fj.unembed(
            WEIGHTS["dense"],
            jnp.zeros((2, 64)),
            CONFIGS["dense"],
            taps=edits.scale("logits", 2.0),
        )


@pytest.mark.parametrize(
    ("taps", "site"),
    [
        (edits.steer(np.ones((4, 16)), 0, site="z"), "z"),
        (edits.ablate_heads([(0, 1)], mean={0: np.ones((4, 16))}), "z"),
        (edits.patch(np.ones((2, 4, 16)), 0, site="z"), "z"),
        (edits.freeze_attention(np.ones((2, 4, 2)), 0), "pattern"),
        (edits.custom("mlp_post", jnp.add, np.ones(160), layers=0), "mlp_post"),
    ],
)
def test_an_edit_of_one_layer_does_not_ask_another_for_its_shape(taps, site):
    """The second layer has other heads and another width, and no edit."""
    attention = replace(LAYERS["dense"][0].attention, num_heads=2, num_kv_heads=2, head_dim=8)
    other = replace(LAYERS["dense"][0], attention=attention, mlp=MLPConfig(40))
    config = replace(model("dense"), layers=(LAYERS["dense"][0], other))
    llm = fj.LLM(config, init_params(config))
    assert np.abs(llm.logits(PROMPT, taps=taps) - llm.logits(PROMPT)).max() > 1e-3
    assert site in taps.edits
