"""Activations read out of served requests: those of the dense forward, however they are batched."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.attention import paged_attention
from ferrum_jax.kv import make_cache
from ferrum_jax.models import init_params
from ferrum_jax.models.taps import TapRun
from ferrum_jax.runtime.step import run_step
from ferrum_jax.sampler import make_sampling_state
from ferrum_jax.types import LayerSpec, MLPConfig, Place, StepBatch, StepShape
from tests.runtime.models import DENSE, LAYERS, VOCAB, WINDOWED, idle, make_llm, model

edits = fj.edits
pytestmark = pytest.mark.every_case
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=120, max_model_len=64, max_num_seqs=3, max_num_batched_tokens=16
)
GREEDY = fj.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
PADDED = 48
ATTENTION = ("resid_pre", "resid_mid", "resid_post", "q", "k", "v", "z", "attn_out", "mlp_out")
SITES = {
    "dense": (*ATTENTION, "mlp_pre", "mlp_post", "logits"),
    "windowed": (*ATTENTION, "mlp_pre", "mlp_post", "logits", "pattern"),
    "moe": (*ATTENTION, "router", "logits"),
}
close = partial(np.testing.assert_allclose, rtol=0, atol=5e-5)


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(3, VOCAB, length).tolist()


PROMPTS = [prompt(length, seed=length) for length in (5, 19, 1, 33, 8, 16, 12)]


@partial(jax.jit, static_argnames="config")
def _captured(params, tokens, prompt_len, taps, *, config):
    index = jnp.arange(PADDED)
    taps = taps.replace(place=Place(0 * index, index, jnp.full(PADDED, prompt_len)))
    hidden, _, captured = fj.forward_capture(
        params, tokens, index, None, config=config, attend=fj.dense_attention, taps=taps
    )
    return hidden, captured


def dense(llm, ids, taps, prompt_len=None):
    """The final hidden states and the captures of one dense forward."""
    tokens = jnp.asarray(ids + [0] * (PADDED - len(ids)))
    hidden, captured = _captured(
        llm.params, tokens, prompt_len or len(ids), taps, config=llm.config
    )
    return jax.tree.map(lambda x: np.asarray(x)[: len(ids)], (hidden, captured))


def check(values, llm, ids, taps, prompt_len=None):
    """Captured values are those of the dense forward."""
    _, expected = dense(llm, ids, taps, prompt_len)
    assert set(values) == set(expected)
    for site, layers in expected.items():
        assert set(values[site]) == set(layers), site
        for layer, wanted in layers.items():
            got = values[site][layer]
            if site == "pattern":
                wanted = wanted[..., : len(ids)]
            close(got, wanted, err_msg=f"{site} of layer {layer}")


@cache
def shared(kind="dense", **changes):
    return make_llm(kind, replace(ENGINE, **changes))


@pytest.fixture(autouse=True, scope="module")
def forget_engines():
    yield
    shared.cache_clear()


@pytest.fixture
def llm():
    """The shared engine; every test leaves it idle and clean."""
    llm = shared()
    yield llm
    assert idle(llm)


# Values


@pytest.mark.parametrize("kind", LAYERS)
def test_every_site_is_that_of_the_dense_forward(kind):
    llm, taps = shared(kind), fj.Taps(capture=SITES[kind])
    for ids, values in zip(PROMPTS, llm.capture(PROMPTS, SITES[kind]), strict=True):
        check(values, llm, ids, taps)
    assert idle(llm)


def test_patterns_of_windows_soft_caps_sinks_and_shared_keys():
    capped = replace(WINDOWED.attention, soft_cap=1.5, num_kv_heads=1)
    layers = (
        LayerSpec(capped, MLPConfig(40)),
        LayerSpec(replace(DENSE.attention, sinks=True), MLPConfig(40)),
    )
    config = replace(model("dense"), layers=layers)
    params = init_params(config, seed=4)
    sinks = params.layers[1].attention.replace(sinks=jnp.asarray([0.5, -1.0, 2.0, 0.0]))
    params = params.replace(layers=(params.layers[0], params.layers[1].replace(attention=sinks)))
    llm, taps = fj.LLM(config, params, engine=ENGINE), fj.Taps(capture=("pattern", "z"))
    for ids, values in zip(PROMPTS, llm.capture(PROMPTS, ("pattern", "z")), strict=True):
        check(values, llm, ids, taps)
        sums = values["pattern"][0].sum(axis=-1)
        close(sums, np.ones_like(sums))
        assert values["pattern"][1].sum(axis=-1).max() < 1 - 1e-4
        assert not values["pattern"][0][9:, :, 0].any()


SETTINGS = {
    "small chunks": {"max_num_batched_tokens": 3},
    "no run-ahead": {"run_ahead": False},
    "prefix cache": {"prefix_caching": True},
    "preempted": {"num_pages": 17},
    "swapped": {"num_pages": 17, "preemption": "swap"},
    "the same bits": {"batch_invariant": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_engine_do_not_show(name):
    """Each text goes on by some tokens, so that pages run out where there are few."""
    llm, sites = shared(**SETTINGS[name]), ("resid_post", "z", "logits")
    taps = fj.Taps(capture=sites)
    if name == "prefix cache":
        llm.generate(PROMPTS, GREEDY)
    preempted = llm.metrics.snapshot().num_preemptions
    texts = [prompt(20, seed=i) for i in range(3)] + PROMPTS[1:5]
    outputs = shared().generate(texts, GREEDY)
    found = llm.capture(texts, sites, params=GREEDY)
    for ids, output, values in zip(texts, outputs, found, strict=True):
        check(values, llm, ids + output.outputs[0].token_ids[:-1], taps, len(ids))
    if name in ("preempted", "swapped"):
        assert llm.metrics.snapshot().num_preemptions > preempted
    if name == "prefix cache":
        output = llm.generate([PROMPTS[3]], GREEDY)[0]
        assert output.metrics.cached_tokens == 32
    assert idle(llm)


def test_a_capture_beside_plain_and_edited_requests(llm):
    engine = llm.engine
    plain = llm.generate(PROMPTS[3:4], GREEDY)[0].outputs[0]
    ids = engine.add(PROMPTS[3], GREEDY), engine.add(PROMPTS[1], GREEDY, taps=edits.ablate_mlp(0))
    found = llm.capture(PROMPTS, "z", 1)
    for text, values in zip(PROMPTS, found, strict=True):
        check(values, llm, text, fj.Taps(capture=("z",), layers=(1,)))
    while engine.has_work:
        engine.step()
    assert engine.take(ids[0]).outputs[0].token_ids == plain.token_ids
    assert engine.take(ids[1]).outputs[0].token_ids != plain.token_ids


def test_edited_values_are_captured(llm):
    vector = np.random.default_rng(0).standard_normal(64)
    taps = [
        edits.steer(vector, 0, 3.0, positions=-1) + edits.ablate_heads([(1, 2)]),
        edits.ablate_heads([(1, 0)], positions="generated"),
        None,
    ]
    wanted = fj.Taps(capture=("resid_post", "z"))
    found = llm.capture(PROMPTS[3:6], ("resid_post", "z"), params=GREEDY, taps=taps)
    outputs = llm.generate(PROMPTS[3:6], GREEDY, taps=taps)
    for ids, one, output, values in zip(PROMPTS[3:], taps, outputs, found, strict=False):
        whole = ids + output.outputs[0].token_ids[:-1]
        check(values, llm, whole, (one or fj.Taps()) + wanted, len(ids))
    assert not found[0]["z"][1][:, 2].any()
    z = found[1]["z"][1][:, 0]
    assert z[: len(PROMPTS[4])].any(axis=-1).all()
    assert not z[len(PROMPTS[4]) :].any()


# Chunks


def test_chunks_come_in_order_and_know_their_tokens(llm):
    output = llm.generate([PROMPTS[3]], GREEDY)[0].outputs[0]
    seen: dict[int, list[int]] = {}
    done = []
    for chunk in llm.iter_capture(PROMPTS, "resid_post", params=GREEDY):
        tokens = seen.setdefault(chunk.prompt, [])
        assert chunk.prompt not in done
        assert chunk.start == len(tokens)
        assert len(chunk) == len(chunk.token_ids) <= ENGINE.max_num_batched_tokens
        assert {len(x) for x in chunk.values["resid_post"].values()} == {len(chunk)}
        tokens += chunk.token_ids
        if chunk.done:
            done.append(chunk.prompt)
    assert sorted(done) == list(range(len(PROMPTS)))
    for i, text in enumerate(PROMPTS):
        assert seen[i][: len(text)] == text
        assert len(seen[i]) == len(text) + GREEDY.max_tokens - 1
    assert seen[3] == PROMPTS[3] + output.token_ids[:-1]


def test_a_chunk_does_not_hold_the_step():
    chunk = next(iter(shared().iter_capture(PROMPTS[1], ("z", "resid_pre"))))
    for layers in chunk.values.values():
        for x in layers.values():
            assert x.base is None
            assert x.flags.writeable


def test_texts_are_read_as_the_engine_gets_to_them(llm):
    read = []

    def texts():
        for i in range(40):
            read.append(i)
            yield prompt(4, seed=i)

    chunks = llm.iter_capture(texts(), "resid_post", 0)
    assert not read
    assert next(chunks).prompt == 0
    assert len(read) <= 2 * ENGINE.max_num_seqs
    rest = [chunk.prompt for chunk in chunks if chunk.done]
    assert len(read) == 40
    assert sorted(rest) == list(range(1, 40))


def test_closing_early_leaves_the_engine_clean(llm):
    chunks = llm.iter_capture(PROMPTS, "z")
    next(chunks)
    assert not idle(llm)
    chunks.close()
    assert idle(llm)
    assert not llm.engine._loop.done
    for _ in llm.iter_capture(PROMPTS, "z"):
        break


def test_a_wrong_text_in_the_middle_leaves_the_engine_clean(llm):
    with pytest.raises(fj.RequestError, match="token id 600; the vocabulary has ids 0 to 599"):
        llm.capture([PROMPTS[1], [600], PROMPTS[0]], "z")
    assert not llm.engine._loop.done


def test_a_fork_has_what_its_original_captured(llm):
    engine, taps = llm.engine, fj.Taps(capture=("resid_post",))
    request = engine.add(PROMPTS[1], GREEDY, taps=taps)
    for _ in range(4):
        engine.step()
    twin = engine.fork(request)
    engine.rewind(request, 1)
    while engine.has_work:
        engine.step()
    trackers = [engine.take_tracker(i) for i in (request, twin)]
    for tracker in trackers:
        parts = tracker.captured.take()
        ids = [i for part in parts for i in part.token_ids]
        assert ids == PROMPTS[1] + tracker.output().outputs[0].token_ids[:-1]
        joined = np.concatenate([part.values["resid_post"][1] for part in parts])
        check({"resid_post": {1: joined}}, llm, ids, fj.Taps(("resid_post",), (1,)))


# What is asked for


def test_what_edits_capture_is_not_returned(llm):
    also = edits.ablate_mlp(0) + fj.Taps(capture=("q",), layers=(1,))
    (found,) = llm.capture(PROMPTS[0], "z", 0, taps=also)
    assert {site: list(layers) for site, layers in found.items()} == {"z": [0]}


def test_positions_and_types(llm):
    (whole,) = llm.capture(PROMPTS[1], ("resid_post", "logits"))
    for positions, index in (
        (-1, [18]),
        (3, [3]),
        ([0, -2], [0, 17]),
        (slice(4, -3), range(4, 16)),
        (np.arange(19) % 9 == 0, [0, 9, 18]),
    ):
        (some,) = llm.capture(PROMPTS[1], ("resid_post", "logits"), positions=positions)
        jax.tree.map(lambda a, b, i=list(index): close(a, b[i]), some, whole)
    (half,) = llm.capture(PROMPTS[1], dtype="float16", positions=-1)
    assert {str(x.dtype) for x in half["resid_post"].values()} == {"float16"}
    np.testing.assert_allclose(half["resid_post"][1], whole["resid_post"][1][-1:], atol=0.01)
    narrow = make_llm("moe", ENGINE, "bfloat16")
    (found,) = narrow.capture(PROMPTS[0], ("resid_mid", "router", "logits"))
    types = {site: str(layers.popitem()[1].dtype) for site, layers in found.items()}
    assert types == {"resid_mid": "bfloat16", "router": "float32", "logits": "float32"}


def test_some_layers(llm):
    (found,) = llm.capture(PROMPTS[0], ("z", "logits"), 1)
    assert {site: list(layers) for site, layers in found.items()} == {"z": [1], "logits": [2]}
    (found,) = llm.capture([PROMPTS[0]], "z", [1, 0])
    assert sorted(found["z"]) == [0, 1]
    assert llm.capture([], "z") == []


REFUSED = {
    "site": ({"sites": "zz"}, "'zz' is not a site; the sites are resid_pre,"),
    "no site": ({"sites": ()}, "no sites are named; name at least one"),
    "layer": ({"layers": 2}, "layer 2 does not exist; the model has layers 0 to 1"),
    "negative layer": ({"layers": [-1]}, "layer -1 does not exist"),
    "no layer": ({"layers": []}, "no layers are named; leave layers out for all"),
    "half a layer": ({"layers": [0.5]}, "layers holds 0.5; give layer numbers"),
    "router": ({"sites": ("z", "router")}, "no site 'router' in layers 0, 1; this model has"),
    "position": ({"positions": 19}, "positions is 19; text 0 has positions 0 to 18"),
    "bool": ({"positions": True}, "positions is True; text 0 has positions 0 to 18"),
    "table": ({"positions": [[0, 1]]}, r"positions is \[\[0, 1\]\]; text 0 has positions 0 to"),
    "name": ({"positions": "last"}, "positions is 'last'; text 0 has positions 0 to 18"),
    "completions": (
        {"params": fj.SamplingParams(n=3)},
        "captures are of one completion, and n is 3; set n=1",
    ),
    "edits": ({"taps": edits.ablate_mlp(2)}, "layer 2 does not exist"),
    "counted": ({"taps": [None, None]}, "2 taps for 1 prompts; give one or as many"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        llm.capture([PROMPTS[1]], **arguments)


def test_other_refusals(llm):
    with pytest.raises(fj.RequestError, match="a list of taps needs a list of prompts"):
        llm.iter_capture((ids for ids in PROMPTS), taps=[None])
    with pytest.raises(fj.ConfigError, match="int3"):
        llm.capture(PROMPTS, dtype="int3")


# The plain program


def program(taps):
    """The step as it is lowered."""
    config, kv = model("moe"), shared().engine.kv
    shape = StepShape(16, 3)
    row = jax.ShapeDtypeStruct((3,), jnp.int32)
    batch = StepBatch(
        slots=row,
        query_starts=jax.ShapeDtypeStruct((4,), jnp.int32),
        context_lens=row,
        samples=jax.ShapeDtypeStruct((3,), bool),
        block_tables=jax.ShapeDtypeStruct((3, 16), jnp.int32),
    )
    arguments = jax.eval_shape(
        lambda: (init_params(config), make_cache(config, kv), make_sampling_state(3, 64, VOCAB))
    )
    params, cache, sampling = arguments
    step = partial(run_step, config=config, shape=shape, bind=paged_attention)
    return jax.jit(step).lower(params, cache, batch, sampling, taps).as_text()


def test_a_step_without_taps_is_the_program_of_a_model_without_sites(monkeypatch):
    plain = program(fj.Taps())
    assert program(edits.scale("z", 2.0)).count("\n") > plain.count("\n")
    assert "edit_" not in plain
    monkeypatch.setattr(TapRun, "__call__", lambda self, site, x, layer: x)
    monkeypatch.setattr(TapRun, "wants", lambda self, site: False)
    assert program(fj.Taps()) == plain
