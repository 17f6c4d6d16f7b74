"""Edits of served requests: each as if it were alone in a model that is edited so."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.types import LayerSpec, MLPConfig, Place
from tests.runtime.models import DENSE, VOCAB, WINDOWED, idle, make_llm, model

edits = fj.edits
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=160, max_model_len=96, max_num_seqs=4, max_num_batched_tokens=16
)
GREEDY = fj.SamplingParams(temperature=0, max_tokens=7, ignore_eos=True, logprobs=1)
RANDOM = replace(GREEDY, temperature=1.0, seed=5)
PADDED = 64
"""Tokens that the reference runs, so that it is compiled once for each kind of edits."""
close = partial(np.testing.assert_allclose, rtol=0, atol=5e-5)


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(3, VOCAB, length).tolist()


PROMPTS = [prompt(length, seed=length) for length in (5, 11, 24, 17, 1, 30, 13, 8, 20, 9, 16, 12)]


def _double_tail(x, factor):
    return jnp.where(jnp.arange(x.shape[-1]) < 4, x, x * factor)


def makers(rng):
    """One edit of each kind; other values for another `rng`, in the same shapes."""
    sample, mean = rng.standard_normal((6, 160)), rng.standard_normal((4, 16))
    head, neuron = int(rng.integers(4)), int(rng.integers(160))
    vector = rng.standard_normal(64)
    return {
        "head": edits.ablate_heads([(0, head)]),
        "neuron": edits.ablate_neurons([(1, neuron)], positions=slice(2, None)),
        "mean": edits.ablate_heads([(1, head)], mean={1: mean}, positions=slice(-2, None)),
        "draw": edits.ablate_neurons([(0, neuron)], resample={0: sample}, seed=neuron),
        "last": edits.steer(vector, 0, positions=-1),
        "generated": edits.steer(vector, [0, 1], 2.0, positions="generated"),
        "query": edits.scale("q", float(rng.uniform(0, 3)), layers=1),
        "value": edits.patch(rng.standard_normal((3, 2, 16)), 0, [1, -1, 12], "v"),
        "custom": edits.custom("z", _double_tail, rng.uniform(1, 3), layers=0),
        "logits": edits.steer(rng.standard_normal(VOCAB), None, site="logits"),
    }


EDITS = makers(np.random.default_rng(1))
ALL = sum(EDITS.values(), fj.Taps())
EACH = [*EDITS.values(), None, fj.Taps()]
"""For each prompt its edits; the last two run the plain model."""


@partial(jax.jit, static_argnames="config")
def _logprobs(params, tokens, prompt_len, taps, *, config):
    index = jnp.arange(PADDED)
    taps = taps.replace(place=Place(0 * index, index, jnp.full(PADDED, prompt_len)))
    hidden, _ = fj.forward(
        params, tokens, index, None, config=config, attend=fj.dense_attention, taps=taps
    )
    return jax.nn.log_softmax(fj.unembed(params, hidden, config, taps=taps))


def reference(llm, ids, prompt_len, taps):
    """Logprobs `[T, V]` of one dense forward, of which the first tokens are the prompt."""
    tokens = jnp.asarray(ids + [0] * (PADDED - len(ids)))
    table = _logprobs(llm.params, tokens, prompt_len, taps or fj.Taps(), config=llm.config)
    return np.asarray(table)[: len(ids)]


def logprobs(completion):
    pairs = zip(completion.logprobs, completion.token_ids, strict=True)
    return np.asarray([table[token].logprob for table, token in pairs])


def check(llm, ids, taps, completion, *, greedy=True, prompt_len=None):
    """A completion is what the dense forward with its edits says."""
    table = reference(llm, ids + completion.token_ids, prompt_len or len(ids), taps)[len(ids) - 1 :]
    chosen = table[np.arange(len(completion.token_ids)), completion.token_ids]
    close(logprobs(completion), chosen)
    if greedy:
        assert np.all(table[:-1].max(axis=1) - chosen < 1e-4)


def serving(taps, llm):
    """The engine after a run of all taps at once: its programs then serve each of them."""
    llm.generate([prompt(6)], replace(GREEDY, max_tokens=2), taps=sum(taps, fj.Taps()))
    return llm


@cache
def shared(**changes):
    """An engine whose programs serve every combination of the edits above, in their order."""
    return serving(EDITS.values(), make_llm("dense", replace(ENGINE, **changes)))


@pytest.fixture(autouse=True, scope="module")
def forget_engines():
    yield
    shared.cache_clear()
    bits_alone.cache_clear()
    expected.cache_clear()


@pytest.fixture
def llm():
    """The shared engine; every test leaves it idle and clean."""
    llm = shared()
    yield llm
    assert idle(llm)


def finish(engine, *requests):
    while engine.has_work:
        engine.step()
    return [engine.take(request).outputs[0] for request in requests]


def started(llm, ids, params, taps, steps=6):
    request = llm.engine.add(ids, params, taps=taps)
    for _ in range(steps):
        llm.engine.step()
    return request


@cache
def expected():
    """What every request of the mixed batch gives alone."""
    llm = shared()
    outputs = [
        llm.generate([p], GREEDY, taps=taps)[0].outputs[0]
        for p, taps in zip(PROMPTS, EACH, strict=True)
    ]
    return [(completion.token_ids, logprobs(completion)) for completion in outputs]


def same(outputs, wanted):
    for output, (tokens, values) in zip(outputs, wanted, strict=True):
        assert output.outputs[0].token_ids == tokens
        close(logprobs(output.outputs[0]), values)


# Values


def without(params, layer, part, name, unit):
    layers = list(params.layers)
    block = getattr(layers[layer], part)
    block = block.replace(**{name: getattr(block, name).at[unit].set(0)})
    layers[layer] = layers[layer].replace(**{part: block})
    return params.replace(layers=tuple(layers))


@pytest.mark.one_jax
def test_64_ablations_in_one_batch_are_64_edited_models():
    units = [(layer, head) for layer in range(2) for head in range(4)] + [
        (i % 2, 3 * i) for i in range(8, 53)
    ]
    heads, neurons = units[:8], [*units[8:], *((1, n) for n in range(11))]
    assert len(heads + neurons) == 64
    taps, weights = [], []
    llm = make_llm("dense", ENGINE)
    for i, (layer, unit) in enumerate(heads + neurons):
        make = edits.ablate_heads if i < 8 else edits.ablate_neurons
        part, name = ("attention", "o") if i < 8 else ("mlp", "down")
        taps.append(make([(layer, unit)]))
        weights.append(without(llm.params, layer, part, name, unit))
    order = np.random.default_rng(0).permutation(64)
    taps, weights = [taps[i] for i in order], [weights[i] for i in order]
    texts = [prompt(3 + i % 9, seed=i) for i in range(64)]
    llm.score(texts[0], taps=edits.ablate_heads([(0, 0)]) + edits.ablate_neurons([(0, 0)]))
    before = {shape for shape in llm.compilations if shape.plan}
    short = replace(GREEDY, max_tokens=3)
    outputs, scores = llm.generate(texts, short, taps=taps), llm.score(texts, taps=taps)
    for text, params, output, score in zip(texts, weights, outputs, scores, strict=True):
        edited = fj.LLM(llm.config, params)
        check(edited, text, None, output.outputs[0])
        table = reference(edited, text, len(text), None)
        close(score.logprobs[1:], table[np.arange(len(text) - 1), text[1:]])
    plans = {shape.plan for shape in llm.compilations if shape.plan}
    assert len(plans) == 1
    tapped = [shape for shape in llm.compilations if shape.plan]
    assert {shape.plan for shape in before} == plans
    assert len(tapped) <= len(llm.engine.declared_shapes)
    for i in (3, 40):
        alone = llm.generate([texts[i]], short, taps=taps[i])[0].outputs[0]
        same([outputs[i]], [(alone.token_ids, logprobs(alone))])
        close(llm.score([texts[i]], taps=taps[i])[0].logprobs, scores[i].logprobs)
    assert [shape for shape in llm.compilations if shape.plan] == tapped


def test_every_kind_alone_follows_the_dense_forward(llm):
    plain = llm.generate(PROMPTS, GREEDY)
    for p, taps, (tokens, values), output in zip(PROMPTS, EACH, expected(), plain, strict=True):
        completion = replace(output.outputs[0], token_ids=tokens)
        table = reference(llm, p + tokens, len(p), taps)[len(p) - 1 : -1]
        close(values, table[np.arange(len(tokens)), completion.token_ids])
        assert np.all(table.max(axis=1) - values < 1e-4)
        if taps is not None and taps.edits:
            other = reference(llm, p + tokens, len(p), None)[len(p) - 1 : -1]
            assert np.abs(table - other).max() > 1e-3


SETTINGS = {
    "as it is": {},
    "a token a step": {"max_num_batched_tokens": 4},
    "no run-ahead": {"run_ahead": False},
    "preempted": {"num_pages": 20},
    "swapped": {"num_pages": 20, "preemption": "swap"},
    "prefix cache": {"prefix_caching": True},
    "in turns": {"policy": "round_robin", "quantum": 2, "max_num_seqs": 2},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.one_jax if SETTINGS[n] else ()) for n in SETTINGS],
)
def test_a_mixed_batch_gives_what_each_gives_alone(name):
    llm = shared(**SETTINGS[name])
    outputs = llm.generate(PROMPTS, GREEDY, taps=EACH)
    same(outputs, expected())
    metrics = [output.metrics for output in outputs]
    if name in ("preempted", "swapped", "in turns"):
        assert sum(m.num_preemptions for m in metrics) > 0
    if name == "swapped":
        assert sum(m.num_swaps for m in metrics) > 0
    same(llm.generate(PROMPTS[::-1], GREEDY, taps=EACH[::-1]), expected()[::-1])
    assert idle(llm)


@pytest.mark.one_jax
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_compositions_give_what_each_gives_alone(seed):
    rng = np.random.default_rng(seed)
    llm = shared(**SETTINGS[str(rng.choice(["a token a step", "preempted", "prefix cache"]))])
    texts = [rng.integers(3, VOCAB, rng.integers(1, 40)).tolist() for _ in range(6)]
    taps = []
    for _ in texts:
        drawn = makers(rng)
        taps.append(sum((t for t in drawn.values() if rng.random() < 0.4), fj.Taps()))
    params = [replace(RANDOM if rng.random() < 0.5 else GREEDY, max_tokens=5) for _ in texts]
    alone = []
    for text, one, param in zip(texts, taps, params, strict=True):
        (output,) = shared().generate([text], param, taps=one)
        alone.append((output.outputs[0].token_ids, logprobs(output.outputs[0])))
    same(llm.generate(texts, params, taps=taps), alone)
    assert len({shape.plan for shape in llm.compilations if shape.plan}) == 1
    assert idle(llm)


def test_all_kinds_at_once_follow_the_dense_forward(llm):
    for text in PROMPTS[:6]:
        check(llm, text, ALL, llm.generate([text], GREEDY, taps=ALL)[0].outputs[0])


@pytest.mark.one_jax
@pytest.mark.parametrize("kind", ["windowed", "moe"])
def test_other_models(kind):
    every = [
        edits.ablate_heads([(0, 2)]),
        edits.ablate_mlp(1, positions="generated"),
        edits.scale("k", 2.0, layers=0),
    ]
    if kind == "moe":
        every.append(edits.force_router([1, 4]))
    taps = [*every, None]
    llm = serving(every, make_llm(kind, ENGINE))
    outputs = llm.generate(PROMPTS[1 : 1 + len(taps)], GREEDY, taps=taps)
    for text, one, output in zip(PROMPTS[1:], taps, outputs, strict=False):
        check(llm, text, one, output.outputs[0])


# The life of a request


def test_completions_of_one_request_share_its_edits(llm):
    taps = EDITS["last"] + EDITS["generated"]
    output = llm.generate([PROMPTS[1]], replace(RANDOM, n=3), taps=taps)[0]
    assert len({tuple(c.token_ids) for c in output.outputs}) == 3
    for completion in output.outputs:
        check(llm, PROMPTS[1], taps, completion, greedy=False)


def test_a_fork_and_a_rewound_request_keep_their_edits(llm):
    taps, engine = EDITS["generated"] + EDITS["head"], llm.engine
    whole = llm.generate([PROMPTS[1]], GREEDY, taps=taps)[0].outputs[0]
    request = started(llm, PROMPTS[1], GREEDY, taps)
    twin, other = engine.fork(request), engine.fork(request)
    engine.rewind(other, 2)
    for completion in finish(engine, request, twin, other):
        assert completion.token_ids == whole.token_ids
        close(logprobs(completion), logprobs(whole))


def test_a_snapshot_shares_its_pages_with_the_same_edits_only(llm):
    engine, taps = llm.engine, EDITS["head"]
    head = int(taps.edits["z"][0].values["units"][0, 0, 1])
    request = started(llm, PROMPTS[2], GREEDY, taps)
    snapshot = engine.snapshot(request)
    finish(engine, request)
    tokens = list(snapshot.token_ids)

    def resumed(**options):
        again = engine.resume(snapshot, GREEDY, **options)
        while engine.has_work:
            engine.step()
        output = engine.take(again)
        check(llm, tokens, options.get("taps", taps), output.outputs[0])
        return output.metrics.cached_tokens

    assert resumed() == resumed(taps=edits.ablate_heads([(0, head)])) > 20
    other = edits.ablate_heads([(0, (head + 1) % 4)])
    assert resumed(taps=other) == resumed(taps=None) == resumed(taps=taps + EDITS["query"]) == 0
    engine.release(snapshot)


def test_a_resumed_prompt_is_longer_so_relative_positions_compute_anew(llm):
    engine, taps = llm.engine, EDITS["generated"]
    request = started(llm, PROMPTS[1], GREEDY, taps)
    snapshot = engine.snapshot(request)
    finish(engine, request)
    again = engine.resume(snapshot, GREEDY)
    while engine.has_work:
        engine.step()
    output = engine.take(again)
    assert output.metrics.cached_tokens == 0
    check(llm, list(snapshot.token_ids), taps, output.outputs[0])
    engine.release(snapshot)


@pytest.mark.one_jax
def test_cached_prefixes_are_those_of_the_same_edits():
    llm = shared(prefix_caching=True)
    llm.engine.clear_prefix_cache()
    text = prompt(28, seed=99)

    def cached(taps, ids=text):
        output = llm.generate([ids], GREEDY, taps=taps)[0]
        check(llm, ids, taps, output.outputs[0])
        return output.metrics.cached_tokens

    head = edits.ablate_heads([(0, 1)])
    assert cached(None) == 0
    assert cached(head) == 0
    assert cached(edits.ablate_heads([(0, 2)])) == 0
    assert cached(head + EDITS["query"]) == 0
    assert cached(edits.ablate_heads([(0, 1)])) == cached(None) == cached(fj.Taps()) == 24
    relative = edits.steer(np.ones(64), 0, positions=-1)
    absolute = edits.steer(np.ones(64), 0, positions=[3, 4])
    assert cached(relative) == cached(absolute) == 0
    assert cached(relative) == cached(absolute) == 24
    longer = [*text, 5, 6, 7]
    assert cached(relative, longer) == 0
    assert cached(absolute, longer) == 28
    llm.engine.clear_prefix_cache()
    assert cached(head) == 0


def test_a_slot_that_had_edits_is_clean_for_its_next_owner(llm):
    """Beside one that has edits, so that the program of the edits runs on."""
    engine = llm.engine
    first = engine.add(PROMPTS[1], replace(GREEDY, max_tokens=2), taps=EDITS["logits"])
    beside = engine.add(PROMPTS[0], replace(GREEDY, max_tokens=40), taps=EDITS["generated"])
    while not engine.is_done(first):
        engine.step()
    second = engine.add(PROMPTS[1], GREEDY)
    third = engine.add(PROMPTS[3], GREEDY, taps=EDITS["query"])
    _, long, clean, edited = finish(engine, first, beside, second, third)
    check(llm, PROMPTS[1], None, clean)
    check(llm, PROMPTS[0], EDITS["generated"], long)
    check(llm, PROMPTS[3], EDITS["query"], edited)


def test_streams_have_edits(llm):
    deltas = list(llm.stream(PROMPTS[3], GREEDY, taps=EDITS["generated"]))
    whole = llm.generate([PROMPTS[3]], GREEDY, taps=EDITS["generated"])[0].outputs[0]
    assert [i for delta in deltas for i in delta.token_ids] == whole.token_ids
    for _ in llm.stream(PROMPTS[3], GREEDY, taps=EDITS["head"]):
        break
    same(llm.generate([PROMPTS[10]], GREEDY, taps=EACH[10]), expected()[10:11])


def test_an_aborted_request_leaves_nothing(llm):
    engine = llm.engine
    started(llm, PROMPTS[1], GREEDY, EDITS["logits"], steps=2)
    request = started(llm, PROMPTS[2], GREEDY, ALL, steps=1)
    for i in list(engine.scheduler.running):
        engine.abort(i.request.request_id)
    engine.abort(request)
    same(llm.generate(PROMPTS[10:], GREEDY), expected()[10:])


def _poison(x, at):
    return jnp.where(jnp.arange(x.shape[-1]) == at, jnp.nan, x)


def test_a_nan_fails_its_own_request_only():
    bad = edits.custom("resid_post", _poison, 3, layers=0, positions=slice(5, None))
    taps = [EDITS["head"], bad, None, EDITS["query"]]
    llm = make_llm("dense", replace(ENGINE, num_pages=24, max_num_seqs=2))
    harmless = edits.custom("resid_post", _poison, -1, positions=slice(5, None))
    serving([EDITS["head"], EDITS["query"], harmless], llm)
    outputs = llm.generate(PROMPTS[:4], GREEDY, taps=taps)
    assert "not finite" in outputs[1].error
    for i in (0, 2, 3):
        assert outputs[i].error is None
        check(llm, PROMPTS[i], taps[i], outputs[i].outputs[0])
    with pytest.raises(fj.RequestError, match="text 1: the model's logits were not finite"):
        llm.score(PROMPTS[:4], taps=taps)
    for output, text in zip(llm.generate(PROMPTS[5:9], GREEDY), PROMPTS[5:9], strict=True):
        check(llm, text, None, output.outputs[0])
    assert idle(llm)


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("bfloat16", "auto"), ("float32", "int8")])
def test_smaller_types(dtype, kv_dtype):
    llm = make_llm("dense", replace(ENGINE, kv_dtype=kv_dtype), dtype)
    pattern = np.full((9, 4, 9), 1 / 9)
    taps = EDITS["head"] + EDITS["value"] + edits.freeze_attention(pattern, 1)
    texts = PROMPTS[1:4]
    got = llm.score(texts, taps=[taps, taps, None])
    for text, one, score in zip(texts, [taps, taps, None], got, strict=True):
        table = reference(shared(), text, len(text), one)
        wanted = table[np.arange(len(text) - 1), text[1:]]
        np.testing.assert_allclose(score.logprobs[1:], wanted, atol=0.1)


# Attention weights under paged attention


def of_all_sorts():
    """Windows, soft caps, sinks and several queries per key in one model."""
    attention = WINDOWED.attention
    capped = LayerSpec(replace(attention, soft_cap=1.5, num_kv_heads=1), MLPConfig(40))
    sinks = LayerSpec(replace(DENSE.attention, sinks=True), MLPConfig(40))
    config = replace(model("dense"), layers=(capped, sinks))
    params = init_params(config, seed=4)
    layer = params.layers[1]
    attention = layer.attention.replace(sinks=jnp.asarray([0.5, -1.0, 2.0, 0.0]))
    return config, params.replace(layers=(params.layers[0], layer.replace(attention=attention)))


def test_frozen_attention_is_the_same_in_pages():
    config, params = of_all_sorts()
    llm = fj.LLM(config, params, engine=ENGINE)
    rng = np.random.default_rng(0)
    pattern = rng.dirichlet(np.ones(19), size=(19, 4))
    taps = [
        edits.freeze_attention(pattern, 0),
        edits.freeze_attention(pattern, 1, heads=[2, 0]),
        edits.freeze_attention(pattern, [0, 1]),
        None,
    ]
    texts = [prompt(23, seed=i) for i in range(4)]
    for text, one, score in zip(texts, taps, llm.score(texts, taps=taps), strict=True):
        table = reference(llm, text, len(text), one)
        close(score.logprobs[1:], table[np.arange(22), text[1:]])
    for text, one, output in zip(texts, taps, llm.generate(texts, GREEDY, taps=taps), strict=True):
        check(llm, text, one, output.outputs[0])


# The same bits


INVARIANT = [EDITS["head"] + EDITS["custom"], EDITS["generated"], EDITS["draw"], None]


def bits(output):
    completion = output.outputs[0]
    return completion.token_ids, logprobs(completion).astype(np.float32).tobytes()


@cache
def bits_alone(llm):
    return [
        bits(llm.generate([text], GREEDY, taps=taps)[0])
        for text, taps in zip(PROMPTS[1:9], INVARIANT * 2, strict=True)
    ]


@pytest.mark.one_jax
@pytest.mark.usefixtures("optimised")
def test_the_bits_of_a_request_depend_on_no_neighbour():
    llm = make_llm("dense", replace(ENGINE, batch_invariant=True))
    alone = bits_alone(llm)
    assert [bits(o) for o in llm.generate(PROMPTS[1:9], GREEDY, taps=INVARIANT * 2)] == alone
    plain = llm.generate(PROMPTS[1:9], GREEDY, taps=[INVARIANT[0], *[None] * 7])
    assert bits(plain[0]) == alone[0]
    assert [bits(plain[i]) for i in (3, 7)] == [alone[i] for i in (3, 7)]
    tapped = [shape for shape in llm.compilations if shape.plan]
    assert len(tapped) == 3
    small = replace(ENGINE, batch_invariant=True, max_num_batched_tokens=5, num_pages=16)
    llm = make_llm("dense", small)
    outputs = llm.generate(PROMPTS[1:9], GREEDY, taps=INVARIANT * 2)
    assert [bits(output) for output in outputs] == alone
    assert sum(output.metrics.num_preemptions for output in outputs) > 0


# Errors


REFUSED = {
    "site": (fj.Taps(edits={"zz": EDITS["query"].edits["q"]}), "'zz' is not a site; the sites ar"),
    "layer": (edits.scale("z", 2.0, layers=2), "layer 2 does not exist; .* has layers 0 to 1"),
    "head": (edits.ablate_heads([(1, 4)]), "head 4 does not exist in layer 1, which has 0 to 3"),
    "neuron": (edits.ablate_neurons([(0, 160)]), "neuron 160 does not exist in layer 0"),
    "shape": (
        edits.steer(np.ones(63), 0),
        r"the vector has shape \(63,\); resid_post of layer 0 takes \(64,\) for a token",
    ),
    "router": (edits.force_router([0]), "no site 'router' in layers 0, 1; this model has resid_p"),
    "captured layer": (fj.Taps(capture=("z",), layers=(0, 2)), "layer 2 does not exist"),
    "captured site": (fj.Taps(capture=("zz",)), "'zz' is not a site"),
    "no taps": ({"z": 1}, r"taps is \{'z': 1\}; give what fj.edits makes"),
    "function of a token": (
        edits.custom("z", jnp.sum),
        r"the edit at z, layer 0 returns \(\); it must keep one token's shape \(4, 16\)",
    ),
    "function of a pattern": (
        edits.custom("pattern", jnp.sum),
        r"the edit at pattern, layer 0 returns \(\); it must keep",
    ),
}


@pytest.mark.parametrize(("taps", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(llm, taps, says):
    beside = llm.engine.add(PROMPTS[11], GREEDY)
    try:
        for run in (llm.score, llm.generate):
            with pytest.raises(fj.RequestError, match=says):
                run(PROMPTS[0], taps=taps)
            with pytest.raises(fj.RequestError, match=f"^prompt 1: .*{says}"):
                run(PROMPTS[:2], taps=[EDITS["head"], taps])
    finally:
        (plain,) = finish(llm.engine, beside)
    assert plain.token_ids == expected()[11][0]


def test_other_refusals(llm):
    with pytest.raises(fj.UnsupportedError, match=r"the edit at z is .*; .* fj\.edits\.custom mak"):
        llm.generate(PROMPTS[0], taps=fj.Taps(edits={"z": (jnp.tanh,)}))
    with pytest.raises(fj.RequestError, match="3 taps for 2 prompts; give one or as many"):
        llm.score(PROMPTS[:2], taps=[None] * 3)
    with pytest.raises(fj.RequestError, match="captures are of one completion, and n is 3"):
        llm.generate(PROMPTS[0], replace(RANDOM, n=3), taps=fj.Taps(capture=("z",)))
    with pytest.raises(fj.RequestError, match="layer 2 does not exist"):
        llm.logits(PROMPTS[0], taps=edits.ablate_mlp(2))
