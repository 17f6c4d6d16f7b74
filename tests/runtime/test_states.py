"""Recurrent states in the engine: every request has its own, from its first token to its last."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.types import KVCache, Place, RaggedLayout
from tests.runtime.hybrids import LAYERS, MIXERS, make_llm, model, weights
from tests.runtime.models import VOCAB, idle

pytestmark = pytest.mark.every_case

KINDS = tuple(LAYERS)
WITH_STATE = tuple(kind for kind in KINDS if kind != "short conv")
"""Those that have the site `state`: a convolution keeps its inputs alone."""
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=60, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=7
)
GREEDY = fj.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=0)
RANDOM = replace(GREEDY, temperature=1.0, seed=11)
PADDED = 48
close = partial(np.testing.assert_allclose, rtol=0, atol=5e-5)


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(3, VOCAB, length).tolist()


PROMPTS = [prompt(length, seed=length) for length in (5, 18, 1, 23, 9, 2, 13)]
TEXT = PROMPTS[1]


@cache
def shared(kind, **changes):
    return make_llm(kind, replace(ENGINE, **changes))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """One kind after the other: together their programs are too many for one process."""
    yield request.param
    shared.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def llm(kind):
    """The shared engine of a kind; every test leaves it idle and clean."""
    llm = shared(kind)
    yield llm
    assert idle(llm)


def some(*kinds):
    return pytest.mark.parametrize("kind", kinds, indirect=True)


@partial(jax.jit, static_argnames="config")
def _dense(params, tokens, taps, *, config):
    index = jnp.arange(PADDED)
    taps = taps.replace(place=Place(0 * index, index, jnp.full(PADDED, PADDED)))
    hidden, _, captured = fj.forward_capture(
        params, tokens, index, None, config=config, attend=fj.dense_attention, taps=taps
    )
    logits = fj.unembed(params, hidden, config, taps=taps.replace(capture=()))
    return jax.nn.log_softmax(logits), captured


def dense(llm, ids, taps=None):
    """Logprobs `[T, V]` and captures of one dense forward."""
    tokens = jnp.asarray(ids + [0] * (PADDED - len(ids)))
    found = _dense(llm.params, tokens, taps or fj.Taps(), config=llm.config)
    return jax.tree.map(lambda x: np.asarray(x)[: len(ids)], found)


def check(llm, ids, completion, *, greedy=True):
    """A completion is what the dense forward says, token by token."""
    tokens = completion.token_ids
    table = dense(llm, ids + tokens)[0][len(ids) - 1 : -1]
    chosen = table[np.arange(len(tokens)), tokens]
    close([t[i].logprob for t, i in zip(completion.logprobs, tokens, strict=True)], chosen)
    if greedy:
        assert np.all(table.max(axis=1) - chosen < 1e-4)


def finish(engine, *requests):
    while engine.has_work:
        engine.step()
    return [engine.take(request).outputs[0] for request in requests]


def started(llm, ids, params=GREEDY, steps=6):
    request = llm.engine.add(ids, params)
    for _ in range(steps):
        llm.engine.step()
    return request


def test_more_requests_than_slots_have_states_of_their_own(llm):
    for texts in (PROMPTS, PROMPTS[::-1]):
        for ids, output in zip(texts, llm.generate(texts, GREEDY), strict=True):
            check(llm, ids, output.outputs[0])
    texts = [ids + prompt(9, seed=1) for ids in PROMPTS]
    for ids, score in zip(texts, llm.score(texts), strict=True):
        close(score.logprobs[1:], dense(llm, ids)[0][np.arange(len(ids) - 1), ids[1:]])


@pytest.mark.parametrize("tokens", [3, 50])
def test_prompts_are_cut_anywhere(kind, tokens):
    """3 tokens a step cut within a convolution; 50 make more than one tile of a sequence."""
    llm = shared(kind, max_num_batched_tokens=tokens)
    texts = [*PROMPTS, prompt(40, seed=40)]
    for ids, score in zip(texts, llm.score(texts), strict=True):
        close(score.logprobs[1:], dense(llm, ids)[0][np.arange(len(ids) - 1), ids[1:]])
    assert idle(llm)


def test_a_preempted_request_starts_over(llm):
    for steps in (1, 2, 3, 5, 7):
        beside = llm.engine.add(PROMPTS[0], GREEDY)
        request = started(llm, TEXT, steps=steps)
        llm.engine.preempt(request)
        completions = finish(llm.engine, beside, request)
        for ids, completion in zip((PROMPTS[0], TEXT), completions, strict=True):
            check(llm, ids, completion)


@some("gated delta", "mamba2 beside attention")
def test_requests_give_way_where_pages_are_few(kind):
    llm = shared(kind, num_pages=10)
    outputs = llm.generate(PROMPTS, replace(GREEDY, max_tokens=12))
    assert sum(output.metrics.num_preemptions for output in outputs) > 0
    for ids, output in zip(PROMPTS, outputs, strict=True):
        check(llm, ids, output.outputs[0])
    assert idle(llm)


def test_completions_of_one_prompt(llm):
    several = llm.generate([TEXT, PROMPTS[4]], replace(RANDOM, n=3))
    alone = llm.generate([TEXT], RANDOM)[0].outputs[0]
    assert several[0].outputs[0].token_ids == alone.token_ids
    for ids, output in zip((TEXT, PROMPTS[4]), several, strict=True):
        assert len({tuple(c.token_ids) for c in output.outputs}) == 3
        for completion in output.outputs:
            check(llm, ids, completion, greedy=False)


@pytest.mark.parametrize("steps", [1, 6])
def test_forks_and_rewound_requests(llm, steps):
    engine = llm.engine
    whole = llm.generate([TEXT], RANDOM)[0].outputs[0]
    request = started(llm, TEXT, RANDOM, steps)
    twin, other = engine.fork(request, seed=11), engine.fork(request, seed=12)
    snapshot = engine.snapshot(request)
    known = len(snapshot.token_ids) - len(TEXT)
    engine.release(snapshot)
    engine.rewind(request, known // 2)
    original, copy, drawn = finish(engine, request, twin, other)
    assert original.token_ids == copy.token_ids == whole.token_ids
    assert drawn.token_ids[:known] == whole.token_ids[:known]
    for completion in (original, copy, drawn):
        check(llm, TEXT, completion, greedy=False)


def test_a_snapshot_goes_on_from_its_tokens(llm):
    engine = llm.engine
    request = started(llm, TEXT, steps=6)
    snapshot = engine.snapshot(request)
    finish(engine, request)
    for text in (PROMPTS[3], PROMPTS[0]):
        beside = engine.add(text, GREEDY)
        again, other = finish(engine, engine.resume(snapshot, GREEDY), beside)
        check(llm, list(snapshot.token_ids), again)
        check(llm, text, other)
    engine.release(snapshot)


def test_branches(llm):
    params = fj.SamplingParams(max_tokens=3, seed=3, ignore_eos=True)
    for branch in llm.branch(PROMPTS[4], params, width=3, rounds=2, keep=2):
        table = dense(llm, PROMPTS[4] + branch.token_ids)[0][len(PROMPTS[4]) - 1 :]
        close(branch.logprobs, table[np.arange(6), branch.token_ids])


def test_the_slot_of_an_aborted_request_is_clean(llm):
    """Its last step is still on the device when the slot has its next owner."""
    engine = llm.engine
    for steps in range(1, 6):
        beside = started(llm, PROMPTS[0], steps=1)
        request = started(llm, TEXT, steps=steps)
        engine.abort(request)
        owner = engine.add(PROMPTS[4], GREEDY)
        completions = finish(engine, beside, owner)
        for ids, completion in zip((PROMPTS[0], PROMPTS[4]), completions, strict=True):
            check(llm, ids, completion)
        assert engine.take(request).outputs[0].finish_reason == "abort"


@some("mamba", "gated delta")
def test_no_run_ahead(kind):
    llm = shared(kind, run_ahead=False)
    for ids, output in zip(PROMPTS[:4], llm.generate(PROMPTS[:4], GREEDY), strict=True):
        check(llm, ids, output.outputs[0])
    assert idle(llm)


def states_of(llm, slot):
    """The states that a slot holds in the first layer."""
    return {name: np.asarray(x[slot]) for name, x in llm.engine.executor.cache.states[0].items()}


@some(*WITH_STATE)
def test_states_that_are_captured_are_those_of_the_cache(kind):
    """Of prompts and of generated tokens, through a preemption too; and those of a run that does
    not look at them."""
    llm, sites = shared(kind), ("state", "y", "gate", "mixer_out")
    taps = fj.Taps(capture=sites)
    outputs = llm.generate(PROMPTS[3:6], GREEDY)
    found = llm.capture(PROMPTS[3:6], sites, 0, params=GREEDY)
    for ids, output, values in zip(PROMPTS[3:6], outputs, found, strict=True):
        expected = dense(llm, ids + output.outputs[0].token_ids[:-1], taps)[1]
        for site in sites:
            close(values[site][0], expected[site][0], err_msg=site)
    request = llm.engine.add(TEXT, GREEDY, taps=taps)
    for _ in range(5):
        llm.engine.step()
    llm.engine.preempt(request)
    while llm.engine.has_work:
        llm.engine.step()
    tracker = llm.engine.take_tracker(request)
    seen = np.concatenate([part.values["state"][0] for part in tracker.captured.take()])
    ids = TEXT + tracker.output().outputs[0].token_ids[:-1]
    close(seen, dense(llm, ids, taps)[1]["state"][0])
    llm.score([TEXT])
    held = [states_of(llm, slot)["state"] for slot in range(2)]
    assert min(np.abs(state - seen[len(TEXT) - 1]).max() for state in held) < 5e-5
    assert idle(llm)


@some(*(kind for kind in WITH_STATE if kind in MIXERS))
def test_an_edited_state_is_what_the_next_tokens_go_on_from(kind):
    """As if the sequence had been cut behind the token, and its cached state been changed."""
    config = replace(model(kind), layers=(LAYERS[kind][0],) * 2)
    params, tokens = weights(config), jnp.asarray(TEXT)
    shapes = config.layers[0].recurrent.state_shapes
    added = np.random.default_rng(1).standard_normal(shapes["state"]).astype(np.float32)
    run = partial(fj.forward_capture, config=config, attend=fj.dense_attention)
    taps = fj.edits.steer(added, 0, positions=6, site="state")
    index = jnp.arange(len(TEXT))
    edited, _, found = run(
        params, tokens, index, None, taps=taps + fj.Taps(capture=("state",), layers=(0,))
    )
    empty = {name: jnp.zeros((1, *shape)) for name, shape in shapes.items()}
    cache = KVCache(layers=(None, None), states=(empty, empty))

    def part(first, last, cache):
        count = jnp.arange(last - first)
        layout = RaggedLayout(
            tokens=count[None],
            valid=jnp.ones((1, last - first), bool),
            starts=(count + first == 0)[None],
            slots=jnp.zeros(1, jnp.int32),
            tile_of_token=count,
        )
        return run(params, tokens[first:last], index[first:last], cache, layout=layout)

    before, cache, _ = part(0, 7, cache)
    changed = {**cache.states[0], "state": cache.states[0]["state"] + added}
    close(changed["state"][0], found["state"][0][6])
    after, cache, _ = part(7, len(TEXT), cache.replace(states=(changed, cache.states[1])))
    close(edited, np.concatenate([before, after]))
    close(cache.states[0]["state"][0], found["state"][0][-1])
    plain, _, _ = part(0, len(TEXT), KVCache(layers=(None, None), states=(empty, empty)))
    assert np.abs(plain[7:] - after).max() > 1e-2


def bits(completion):
    values = [t[i].logprob for t, i in zip(completion.logprobs, completion.token_ids, strict=True)]
    return completion.token_ids, np.asarray(values, np.float32).tobytes()


def test_batch_invariance(kind, optimised):
    """The same bits alone and among others, in steps of 16 and of 3 tokens, preempted, scored."""
    invariant = replace(ENGINE, batch_invariant=True, max_num_batched_tokens=16)
    each = [replace(RANDOM, seed=seed, max_tokens=12) for seed in range(len(PROMPTS))]
    with make_llm(kind, invariant) as llm:
        alone = [
            bits(llm.generate([ids], params)[0].outputs[0])
            for ids, params in zip(PROMPTS, each, strict=True)
        ]
        together = llm.generate(PROMPTS, each)
        assert [bits(output.outputs[0]) for output in together] == alone
        for ids, (tokens, logprobs) in zip(PROMPTS, alone, strict=True):
            assert llm.score([ids + tokens])[0].logprobs[len(ids) :].tobytes() == logprobs
    small = replace(invariant, max_num_batched_tokens=3, num_pages=10)
    with make_llm(kind, small) as llm:
        outputs = llm.generate(PROMPTS, each)
        assert [bits(output.outputs[0]) for output in outputs] == alone
        assert sum(output.metrics.num_preemptions for output in outputs) > 0
        texts = [ids + tokens for ids, (tokens, _) in zip(PROMPTS, alone, strict=True)]
        for ids, score, (_, logprobs) in zip(PROMPTS, llm.score(texts), alone, strict=True):
            assert score.logprobs[len(ids) :].tobytes() == logprobs


REFUSED = {
    "prefix_caching": (
        {"prefix_caching": True},
        "prefix_caching=True shares pages, and layers 0 keep a recurrent state, which no page "
        "holds; use prefix_caching=False",
    ),
    "swap": (
        {"preemption": "swap"},
        "preemption='swap' moves pages, and layers 0 keep a recurrent state, which no page holds; "
        "use preemption='recompute'",
    ),
}


@pytest.mark.parametrize(("changes", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(kind, changes, says):
    with pytest.raises(fj.UnsupportedError, match=says):
        make_llm(kind, replace(ENGINE, **changes)).engine  # noqa: B018
