"""The compiled step: how many there are, what they hold in memory, what they refuse."""

from dataclasses import replace
from itertools import product

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.runtime.shapes import choose_shape, declared_shapes
from ferrum_jax.runtime.step import FEW_PLACES
from ferrum_jax.types import Request, Schedule, ScheduledChunk, Sequence, StepShape


@pytest.mark.one_jax
def test_a_mixed_workload_compiles_a_known_number_of_programs(make_llm):
    llm = make_llm()
    rng = np.random.default_rng(0)
    with llm:
        for round_ in range(2):
            prompts = [rng.integers(3, 4096, n).tolist() for n in (1, 3, 30, 70, 5, 9, 2, 64, 11)]
            params = [
                fj.SamplingParams(
                    max_tokens=3 + i,
                    temperature=i % 2,
                    top_k=i,
                    logprobs=None if i % 3 else i,
                    prompt_logprobs=None if i % 4 else 1,
                    frequency_penalty=0.1 * (i % 2),
                    ignore_eos=True,
                )
                for i in range(9)
            ]
            llm.generate(prompts, params)
            llm.score(prompts)
            if round_ == 0:
                compiled = dict(llm.compilations)
        assert llm.compilations == compiled, "the second round compiled again"
        assert set(compiled) <= set(llm.engine.declared_shapes)
        assert len(llm.engine.declared_shapes) == 14
        assert 7 < len(compiled) <= 14
        # Requests with a temperature at most run programs that have nothing else.
        llm.generate(prompts, fj.SamplingParams(max_tokens=4, temperature=1.0, logprobs=3))
        before = set(llm.compilations)
        llm.generate(prompts, fj.SamplingParams(max_tokens=4, temperature=1.0, top_p=0.9))
        assert set(llm.compilations) == before


@pytest.mark.one_jax
@pytest.mark.parametrize("count", [FEW_PLACES - 3, FEW_PLACES + 4])
def test_a_step_that_could_sample_at_more_places_than_it_does(make_llm, llm, count):
    """Few places are read out by themselves; results are of their own rows in either case."""
    rng = np.random.default_rng(5)
    prompts = [rng.integers(3, 600, 4 + i % 5).tolist() for i in range(count)]
    greedy = fj.SamplingParams(max_tokens=3, temperature=0, logprobs=2, ignore_eos=True)
    drawn = replace(greedy, temperature=1.0, top_p=0.9)
    params = [replace(drawn, seed=i) if i % 3 == 1 else greedy for i in range(count)]
    alone = [llm.generate([p], q)[0].outputs[0] for p, q in zip(prompts, params, strict=True)]
    with make_llm(max_num_seqs=16, max_num_batched_tokens=128, num_pages=200) as wide:
        engine = wide.engine
        # Before them stand one that goes on already and one that never samples, behind them one
        # that is within its prompt.
        running = engine.add([5, 6, 7], replace(greedy, max_tokens=9))
        engine.step()
        scored = engine.add([8, 9, 10, 11], greedy, score_only=True)
        ids = [engine.add(p, q) for p, q in zip(prompts, params, strict=True)]
        long = engine.add(rng.integers(3, 600, 120).tolist(), greedy)
        while engine.has_work:
            engine.step()
        assert [len(engine.take(i).outputs[0].token_ids) for i in (long, running)] == [3, 9]
        assert engine.take(scored).error is None
        for expected, request in zip(alone, ids, strict=True):
            found = engine.take(request).outputs[0]
            assert found.token_ids == expected.token_ids
            logprobs = [
                [top[token].logprob for token, top in zip(c.token_ids, c.logprobs, strict=True)]
                for c in (found, expected)
            ]
            np.testing.assert_allclose(*logprobs, atol=1e-5)


def test_nan_within_a_prompt_fails_its_request_before_it_samples(make_llm, weights):
    poisoned = weights.replace(embed=weights.embed.at[666].set(np.nan))
    with make_llm(max_num_seqs=16, max_num_batched_tokens=64) as llm:
        llm.params = poisoned
        engine = llm.engine
        sick = engine.add([666] + [5] * 100, fj.SamplingParams(max_tokens=2))
        well = engine.add([7, 8], fj.SamplingParams(max_tokens=2, ignore_eos=True))
        while engine.has_work:
            engine.step()
        output = engine.take(sick)
        assert "not finite" in output.error
        assert engine.take(well).outputs[0].finish_reason == "length"


def test_declared_shapes_of_the_default_engine():
    shapes = declared_shapes(fj.EngineConfig())
    plain = [shape for shape in shapes if not shape.processes]
    assert [replace(shape, processes=False) for shape in shapes if shape.processes] == plain
    assert {(s.tokens, s.rows) for s in plain if not s.score} == {
        *((n, n) for n in (1, 2, 4, 8, 16, 32, 64)),
        *((16, 8), (64, 32), (128, 64), (256, 64), (512, 64)),
    }
    assert len(plain) == 17


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_seqs": 1, "max_num_batched_tokens": 1},
        {"max_num_seqs": 7, "max_num_batched_tokens": 7},
        {"max_num_seqs": 3, "max_num_batched_tokens": 1000},
        {"max_num_seqs": 64, "max_num_batched_tokens": 100},
    ],
)
def test_every_schedule_within_the_limits_has_a_shape(settings):
    engine = fj.EngineConfig(**settings)
    shapes = declared_shapes(engine)
    request = Request(0, (1,) * 2000, fj.SamplingParams())
    for rows in range(1, engine.max_num_seqs + 1):
        for extra in {0, 1, 7, engine.max_num_batched_tokens - rows}:
            if not 0 <= extra <= engine.max_num_batched_tokens - rows:
                continue
            lengths = [1 + extra] + [1] * (rows - 1)
            chunks = tuple(
                ScheduledChunk(Sequence(request, 0, 4000), 0, length, False) for length in lengths
            )
            for score, processes in product((False, True), repeat=2):
                schedule = Schedule.of(chunks)
                shape = choose_shape(shapes, schedule, score=score, processes=processes)
                assert shape.processes == processes
                assert shape.tokens >= rows + extra
                assert shape.rows >= rows
                assert (shape.tokens == shape.rows) == (not score and extra == 0)


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize(("max_num_seqs", "budget"), [(1, 4), (5, 20), (8, 32), (16, 64)])
def test_every_step_with_drafts_has_a_shape(max_num_seqs, budget, batch_invariant):
    """Also where the largest step has as many tokens as a decode step with the longest drafts."""
    engine = fj.EngineConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        batch_invariant=batch_invariant,
        speculative=fj.Speculation(num_tokens=3),
    )
    shapes = declared_shapes(engine)
    assert len(set(shapes)) == len(shapes)
    request = Request(0, (1,) * 2000, fj.SamplingParams())
    for rows in range(1, max_num_seqs + 1):
        for longest, prompt in product(range(4), (0, 1, budget)):
            lengths = [1] * (rows - 1) + ([1] if not prompt else [])
            room = budget - len(lengths) - bool(prompt)
            chunks = []
            for length in lengths:
                draft = (7,) * min(longest, room)
                room -= len(draft)
                sequence = Sequence(request, 0, 4000)
                chunks.append(ScheduledChunk(sequence, 0, length + len(draft), True, draft))
            if prompt:
                length = 1 + min(prompt, room)
                chunks.append(ScheduledChunk(Sequence(request, 0, 4000), 0, length, False))
            schedule = Schedule.of(tuple(chunks))
            shape = choose_shape(shapes, schedule, score=False)
            assert shape.tokens >= schedule.num_tokens
            assert shape.rows >= rows
            assert shape.drafts >= max(len(chunk.draft) for chunk in chunks)
            # A decode step's layout has room for one token and its draft in each row.
            if shape.decodes:
                assert all(chunk.length <= 1 + shape.drafts for chunk in chunks)


def test_an_undeclared_shape_is_a_loud_error():
    shapes = declared_shapes(fj.EngineConfig(max_num_seqs=1, max_num_batched_tokens=4))
    chunk = ScheduledChunk(Sequence(Request(0, (1,), fj.SamplingParams()), 0, 9), 0, 9, True)
    with pytest.raises(fj.ResourceExhausted, match="no declared shape holds a step of 9 tokens"):
        choose_shape(shapes, Schedule.of((chunk,)), score=False)


@pytest.mark.parametrize("shape", [StepShape(1, 1), StepShape(32, 4)], ids=str)
def test_the_step_holds_no_second_cache(make_llm, shape, optimised):
    with make_llm(num_pages=40_000) as llm:
        cache_bytes = sum(x.nbytes for x in jax.tree.leaves(llm.engine.executor.cache))
        memory = llm.engine.executor.memory_analysis(shape)
    assert memory.alias_size_in_bytes >= cache_bytes, "the cache is not donated"
    assert memory.temp_size_in_bytes < cache_bytes / 4


@pytest.mark.one_jax
def test_warm_up_compiles_every_declared_shape(make_llm):
    with make_llm(max_num_seqs=2, max_num_batched_tokens=16) as llm:
        llm.warm_up()
        assert set(llm.compilations) == set(llm.engine.declared_shapes)
        assert all(seconds > 0 for seconds in llm.compilations.values())


def test_running_ahead_dispatches_before_reading(llm):
    """With a step in flight, the next one is dispatched before the first one's tokens are read."""
    engine = llm.engine
    request = engine.add([5, 6], fj.SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    before = engine.executor.num_steps
    # Dispatched, nothing read: what it returns is of requests that others have ended.
    assert all(delta.request_id != request for delta in engine.step())
    engine.step()
    assert engine.executor.num_steps == before + 2
    while engine.has_work:
        engine.step()
    # One prefill and four decodes: no step runs for a token past the end.
    assert engine.executor.num_steps == before + 5
    assert len(engine.take(request).outputs[0].token_ids) == 5
