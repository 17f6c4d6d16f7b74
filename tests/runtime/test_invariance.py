"""`batch_invariant=True`: the same bits, however a request is batched, cut, cached or preempted."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrum_jax as fj
from tests.runtime.models import LAYERS, VOCAB, make_llm

ENGINE = fj.EngineConfig(
    page_size=8,
    num_pages=120,
    max_model_len=160,
    max_num_seqs=6,
    max_num_batched_tokens=48,
    batch_invariant=True,
)
LENGTHS = (1, 2, 7, 8, 15, 16, 17, 40, 63, 90)
SETTINGS = {
    "as it is": {},
    "small chunks": {"max_num_batched_tokens": 7},
    "large steps": {"max_num_batched_tokens": 200, "max_num_seqs": 32},
    "one at a time": {"max_num_seqs": 1},
    "preempted": {"num_pages": 18},
    "swapped": {"num_pages": 18, "preemption": "swap"},
    "in turns": {"policy": "round_robin", "quantum": 3, "max_num_seqs": 2},
    "prefix cache": {"prefix_caching": True},
    "other pages": {"page_size": 16, "num_pages": 31},
    "longer model": {"max_model_len": 500, "num_pages": 200},
}


SOME = ("small chunks", "preempted", "swapped", "prefix cache")
"""What is run on every kind of model; the dense one runs everything."""


@pytest.fixture(autouse=True, scope="module")
def optimised_programs():
    """Compile as users' programs are compiled: unoptimised ones reorder no sum."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    shared.cache_clear()
    alone.cache_clear()


def prompts() -> list[list[int]]:
    """Of many lengths; the longer ones begin like each other."""
    rng = np.random.default_rng(5)
    beginning = rng.integers(3, VOCAB, 16).tolist()
    drawn = [rng.integers(3, VOCAB, length).tolist() for length in LENGTHS]
    return [beginning + p[16:] if len(p) > 16 and i % 2 else p for i, p in enumerate(drawn)]


def params(seed: int) -> fj.SamplingParams:
    return fj.SamplingParams(
        max_tokens=9,
        temperature=float(seed % 2),
        top_p=0.9 if seed % 3 else 1.0,
        repetition_penalty=1.2 if seed % 4 == 0 else 1.0,
        seed=seed,
        logprobs=2,
        ignore_eos=True,
    )


def bits(output) -> tuple[tuple[int, ...], bytes]:
    """The tokens, and the bits of their logprobs."""
    (completion,) = output.outputs
    tables = zip(completion.logprobs, completion.token_ids, strict=True)
    values = [table[token].logprob for table, token in tables]
    return tuple(completion.token_ids), np.asarray(values, np.float32).tobytes()


@cache
def shared(kind: str, **changes) -> fj.LLM:
    return make_llm(kind, replace(ENGINE, **changes))


@cache
def alone(kind: str) -> list[tuple[tuple[int, ...], bytes]]:
    """Each request by itself in an engine that serves no other at the time."""
    llm = shared(kind)
    return [bits(llm.generate([p], params(i))[0]) for i, p in enumerate(prompts())]


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in LAYERS for name in SETTINGS if kind == "dense" or name in SOME],
)
def test_every_setting_gives_the_same_bits(kind, name):
    llm = shared(kind, **SETTINGS[name])
    each = [params(i) for i in range(len(LENGTHS))]
    outputs = llm.generate(prompts(), each)
    assert [bits(output) for output in outputs] == alone(kind)
    metrics = [output.metrics for output in outputs]
    if name in ("preempted", "swapped", "in turns"):
        assert sum(m.num_preemptions for m in metrics) > 0
    if name == "swapped":
        assert sum(m.num_swaps for m in metrics) > 0
    if name == "prefix cache":
        again = llm.generate(prompts()[::-1], each[::-1])
        assert [bits(output) for output in again][::-1] == alone(kind)
        assert sum(output.metrics.cached_tokens for output in again) > 100


@pytest.mark.every_case
@pytest.mark.parametrize(
    "changes",
    [
        {"max_num_batched_tokens": 1, "max_num_seqs": 1},
        {"max_num_batched_tokens": 16, "max_num_seqs": 8},
        {"max_num_batched_tokens": 300, "num_pages": 20, "max_model_len": 150},
    ],
    ids=["a token a step", "a tile a step", "large steps"],
)
def test_the_sizes_of_a_step_do_not_show_in_a_larger_model(changes):
    """The demo model: its sums are long enough for XLA to take them in several orders."""
    base = fj.EngineConfig(
        num_pages=200, max_num_batched_tokens=64, max_num_seqs=4, batch_invariant=True
    )
    texts = ["The for statement", "def main(", "import os\n" * 12]
    each = replace(params(1), max_tokens=6)
    with fj.LLM.load("demo", engine=base) as llm:
        expected = [bits(llm.generate(text, each)[0]) for text in texts]
    with fj.LLM.load("demo", engine=replace(base, **changes)) as llm:
        assert [bits(output) for output in llm.generate(texts, each)] == expected


@pytest.mark.parametrize(
    "kind", ["dense", "moe", pytest.param("windowed", marks=pytest.mark.every_case)]
)
def test_decoding_equals_scoring(kind):
    llm = shared(kind)
    for prompt, (tokens, logprobs) in zip(prompts(), alone(kind), strict=True):
        for engine in ({}, {"max_num_batched_tokens": 7}):
            scores = shared(kind, **engine).score([prompt + list(tokens)])[0].logprobs
            assert scores[len(prompt) :].tobytes() == logprobs
    texts = [
        prompt + list(tokens) for prompt, (tokens, _) in zip(prompts(), alone(kind), strict=True)
    ]
    together = [score.logprobs.tobytes() for score in llm.score(texts)]
    assert together == [llm.score([text])[0].logprobs.tobytes() for text in texts]


@pytest.mark.every_case
@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_schedules_give_the_same_bits(kind, seed):
    """Requests come at random steps, in random order; some are preempted, forked or aborted."""
    llm = shared(kind, prefix_caching=True, num_pages=40)
    engine, rng, order = llm.engine, random.Random(seed), list(range(len(LENGTHS)))
    rng.shuffle(order)
    ids: dict[int, int] = {}
    extra = engine.add([5, 6, 7], params(1))
    while len(ids) < len(order) or engine.has_work:
        for _ in range(rng.randint(0, 3)):
            if len(ids) < len(order):
                which = order[len(ids)]
                ids[which] = engine.add(prompts()[which], params(which))
        event = rng.choice(["step"] * 3 + ["preempt", "abort", "clear"])
        running = engine.scheduler.running
        if event == "preempt" and running:
            chosen = rng.choice(running)
            engine.preempt(chosen.request.request_id)
        elif event == "abort":
            engine.abort(extra)
            extra = engine.add([5, 6, 7], params(1))
        elif event == "clear":
            engine.clear_prefix_cache()
        engine.step()
    expected = alone(kind)
    for which, request in ids.items():
        assert bits(engine.take(request)) == expected[which]
    assert engine.free_pages == engine.blocks.num_total


@pytest.mark.every_case
@pytest.mark.parametrize("kv_dtype", ["int8", "float8_e4m3fn", "bfloat16"])
def test_a_smaller_cache_is_invariant_too(kv_dtype):
    each = [params(i) for i in range(len(LENGTHS))]
    batched = shared("dense", kv_dtype=kv_dtype).generate(prompts(), each)
    cut = shared("dense", kv_dtype=kv_dtype, max_num_batched_tokens=7, num_pages=22)
    assert [bits(o) for o in cut.generate(prompts(), each)] == [bits(o) for o in batched]


def test_a_fork_and_a_rewound_sequence_keep_their_bits():
    engine = shared("dense").engine
    prompt, wanted = prompts()[7], alone("dense")[7]
    request = engine.add(prompt, params(7))
    for _ in range(7):
        engine.step()
    twin = engine.fork(request, seed=7)
    engine.rewind(request, 3)
    while engine.has_work:
        engine.step()
    assert bits(engine.take(request)) == wanted
    assert bits(engine.take(twin)) == wanted


@pytest.mark.every_case
def test_the_test_can_fail():
    """Without `batch_invariant` the same comparison finds other bits: it does see them."""
    plain = make_llm("dense", replace(ENGINE, batch_invariant=False))
    each = [params(i) for i in range(len(LENGTHS))]
    single = [bits(plain.generate([p], s)[0]) for p, s in zip(prompts(), each, strict=True)]
    together = [bits(output) for output in plain.generate(prompts(), each)]
    assert [b for _, b in single] != [b for _, b in together]


def test_one_program_serves_everything():
    llm = shared("dense")
    llm.generate(prompts(), [params(i) for i in range(len(LENGTHS))])
    llm.score(prompts())
    assert list(llm.compilations) == list(llm.engine.declared_shapes)
    assert len(llm.compilations) == 1


def test_the_tiles_hold_no_second_cache():
    llm = make_llm("dense", replace(ENGINE, num_pages=20_000))
    (shape,) = llm.engine.declared_shapes
    memory = llm.engine.executor.memory_analysis(shape)
    size = llm.engine.executor.cache.nbytes
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size / 4
