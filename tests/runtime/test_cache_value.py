"""The cache is a value: forks, snapshots and rewinds share pages and change no token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from tests.runtime.models import VOCAB, completions, idle, make_llm

ENGINE = fj.EngineConfig(
    page_size=4, num_pages=120, max_model_len=128, max_num_seqs=6, max_num_batched_tokens=24
)
GREEDY = fj.SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=1)
RANDOM = replace(GREEDY, temperature=1.0, seed=11)
PROMPT = np.random.default_rng(2).integers(3, VOCAB, 18).tolist()


@pytest.fixture(scope="module")
def shared_llm():
    return make_llm("dense", ENGINE)


@pytest.fixture
def llm(shared_llm):
    """Every test leaves the engine idle and all pages free."""
    yield shared_llm
    assert idle(shared_llm)


def started(llm, params=GREEDY, steps=8, prompt=PROMPT):
    """A request that has run for some steps."""
    request = llm.engine.add(prompt, params)
    for _ in range(steps):
        llm.engine.step()
    return request


def finish(engine, *requests):
    outputs = completions(engine, *requests)
    return outputs[0] if len(outputs) == 1 else outputs


def whole(llm, params=GREEDY):
    return llm.generate([PROMPT], params)[0].outputs[0]


def tables(completion):
    """Per token the ids of its table and the token's own logprob."""
    pairs = zip(completion.logprobs, completion.token_ids, strict=True)
    return [
        (sorted(table), pytest.approx(table[token].logprob, abs=1e-4)) for table, token in pairs
    ]


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13])
def test_a_fork_goes_on_as_its_original_does(llm, steps):
    expected, engine = whole(llm), llm.engine
    request = started(llm, steps=steps)
    free = engine.free_pages
    twin = engine.fork(request)
    assert engine.free_pages == free, "a fork takes no page before it writes"
    original, copy = finish(engine, request, twin)
    assert original.token_ids == copy.token_ids == expected.token_ids
    assert tables(copy) == tables(expected)


def test_a_fork_with_a_seed_is_what_that_seed_would_have_drawn_from_there(llm):
    request = started(llm, RANDOM)
    twin, other = llm.engine.fork(request, seed=11), llm.engine.fork(request, seed=12)
    same, twins, others = finish(llm.engine, request, twin, other)
    assert same.token_ids == twins.token_ids == whole(llm, RANDOM).token_ids
    common = 5
    assert others.token_ids[:common] == same.token_ids[:common]
    assert others.token_ids != same.token_ids


def test_many_forks_copy_one_page_each_at_most(llm):
    llm.metrics.reset()
    request = started(llm)
    forks = [llm.engine.fork(request, seed=i) for i in range(5)]
    finish(llm.engine, request, *forks)
    assert 0 < llm.metrics.snapshot().num_copied_pages <= 5


def test_forks_of_forks_and_an_original_that_is_aborted(llm):
    expected = whole(llm).token_ids
    request = started(llm)
    first = llm.engine.fork(request)
    second = llm.engine.fork(first)
    llm.engine.abort(request)
    for _ in range(2):
        llm.engine.step()
    third = llm.engine.fork(second)
    llm.engine.abort(first)
    assert [c.token_ids for c in finish(llm.engine, second, third)] == [expected] * 2
    for ended in (request, first):
        assert llm.engine.take(ended).outputs[0].finish_reason == "abort"


@pytest.mark.parametrize("back", [0, 1, 4, 5])
def test_a_rewound_sequence_draws_the_same_again(llm, back):
    request = started(llm, RANDOM)
    llm.engine.rewind(request, back)
    again = finish(llm.engine, request)
    assert again.token_ids == whole(llm, RANDOM).token_ids
    assert tables(again) == tables(whole(llm, RANDOM))


def test_rewinding_leaves_what_others_share_and_what_is_cached():
    with make_llm("dense", replace(ENGINE, prefix_caching=True)) as llm:
        expected = whole(llm).token_ids
        request = started(llm, steps=10)
        twin = llm.engine.fork(request)
        llm.engine.rewind(request, 6)
        assert [c.token_ids for c in finish(llm.engine, request, twin)] == [expected] * 2
        assert whole(llm).token_ids == expected


def test_a_rewound_text_is_that_of_its_tokens():
    with fj.LLM.load("demo", engine=replace(ENGINE, num_pages=60, max_num_seqs=1)) as llm:
        params = fj.SamplingParams(temperature=0, max_tokens=12)
        expected = llm.generate(["import os"], params)[0].outputs[0]
        request = llm.engine.add(llm.encode("import os"), params)
        for _ in range(7):
            llm.engine.step()
        llm.engine.rewind(request, 3)
        again = finish(llm.engine, request)
    assert (again.text, again.token_ids) == (expected.text, expected.token_ids)


def test_a_snapshot_can_be_continued_many_times_after_its_request_has_ended(llm):
    engine, expected = llm.engine, whole(llm).token_ids
    request = started(llm)
    snapshot = engine.snapshot(request)
    done = len(snapshot.token_ids) - snapshot.prompt_len
    assert list(snapshot.token_ids) == PROMPT + expected[:done]
    finish(engine, request)
    rest = replace(GREEDY, max_tokens=len(expected) - done)
    continued = [finish(engine, engine.resume(snapshot, rest)) for _ in range(2)]
    assert [c.token_ids for c in continued] == [expected[done:]] * 2
    engine.release(snapshot)
    engine.release(snapshot)
    assert finish(engine, engine.resume(snapshot, rest)).token_ids == expected[done:]


def test_a_snapshot_gives_its_pages_back_when_they_are_needed():
    with make_llm("dense", replace(ENGINE, num_pages=20)) as llm:
        engine = llm.engine
        request = started(llm)
        snapshot = engine.snapshot(request)
        finish(engine, request)
        assert engine.free_pages < engine.blocks.num_total
        big = [5] * 60
        llm.generate([big], replace(GREEDY, max_tokens=10))
        assert engine.free_pages == engine.blocks.num_total
        rest = replace(GREEDY, max_tokens=4)
        resumed = finish(engine, engine.resume(snapshot, rest)).token_ids
        assert resumed == llm.generate([list(snapshot.token_ids)], rest)[0].outputs[0].token_ids


def test_completions_of_one_prompt_compute_it_once(llm):
    llm.metrics.reset()
    several = llm.generate([PROMPT], replace(RANDOM, n=5, prompt_logprobs=1))[0]
    seen = llm.metrics.snapshot()
    assert seen.prompt_tokens_computed == len(PROMPT) + 4
    assert several.metrics.cached_tokens == 4 * (len(PROMPT) - 1)
    assert len({tuple(c.token_ids) for c in several.outputs}) == 5
    assert several.outputs[0].token_ids == whole(llm, RANDOM).token_ids
    assert len(several.prompt_logprobs) == len(PROMPT)


def test_completions_go_on_when_their_first_is_preempted_early():
    engine = replace(ENGINE, max_num_batched_tokens=6)
    with make_llm("dense", engine) as llm:
        expected = [c.token_ids for c in llm.generate([PROMPT], replace(RANDOM, n=3))[0].outputs]
        request = llm.engine.add(PROMPT, replace(RANDOM, n=3))
        llm.engine.step()
        llm.engine.preempt(request)
        while llm.engine.has_work:
            llm.engine.step()
        outputs = llm.engine.take(request).outputs
        assert [c.token_ids for c in outputs] == expected
        aborted = llm.engine.add(PROMPT, replace(RANDOM, n=3))
        llm.engine.step()
        llm.engine.abort(aborted)
        reasons = [c.finish_reason for c in llm.engine.take(aborted).outputs]
        assert reasons == ["abort"] * 3
        assert llm.engine.free_pages == llm.engine.blocks.num_total


def test_branching_keeps_the_best_and_shares_their_beginnings(llm):
    llm.metrics.reset()
    params = fj.SamplingParams(max_tokens=4, seed=3, ignore_eos=True)
    branches = llm.branch(PROMPT, params, width=4, rounds=3, keep=2)
    assert [branch.round for branch in branches] == [2, 2]
    assert branches[0].score >= branches[1].score
    for branch in branches:
        assert [len(part.token_ids) for part in branch.path()] == [4, 8, 12]
        assert branch.score == pytest.approx(np.mean(branch.logprobs))
        scored = llm.score([PROMPT + branch.token_ids])[0].logprobs[len(PROMPT) :]
        np.testing.assert_allclose(branch.logprobs, scored, atol=1e-4)
    again = llm.branch(PROMPT, params, width=4, rounds=3, keep=2)
    assert [b.token_ids for b in again] == [b.token_ids for b in branches]


def test_branching_takes_a_score_of_ones_own_and_ends_with_its_branches(llm):
    params = fj.SamplingParams(max_tokens=3, seed=3, stop_token_ids=tuple(range(3, 300)))
    branches = llm.branch(PROMPT, params, width=6, rounds=2, score=lambda b: -b.token_ids[0])
    firsts = [branch.token_ids[0] for branch in branches]
    assert firsts == sorted(firsts)
    assert any(branch.ended for branch in branches)
    with pytest.raises(fj.RequestError, match="width is 0"):
        llm.branch(PROMPT, params, width=0)
    with pytest.raises(fj.RequestError, match="no tokens"):
        llm.branch([], params)


def test_what_cannot_be_forked_or_rewound_says_why(llm):
    engine = llm.engine
    with pytest.raises(fj.RequestError, match="request 987 has no completion 0"):
        engine.fork(987)
    request = started(llm)
    with pytest.raises(fj.RequestError, match="no completion 1"):
        engine.snapshot(request, index=1)
    with pytest.raises(fj.RequestError, match="99 tokens cannot be taken back"):
        engine.rewind(request, 99)
    with pytest.raises(fj.RequestError, match=r"num_tokens is 1\.5"):
        engine.rewind(request, 1.5)
    finish(engine, request)
    with pytest.raises(fj.RequestError, match="still running"):
        engine.fork(request)
    streamed = engine.add(PROMPT, GREEDY, streams=True)
    engine.step()
    with pytest.raises(fj.RequestError, match="streams"):
        engine.rewind(streamed, 0)
    engine.abort(streamed)


def test_a_prompt_that_does_not_begin_with_the_snapshot_is_refused(llm):
    engine = llm.engine
    request = started(llm)
    snapshot = engine.snapshot(request)
    with pytest.raises(fj.RequestError, match="does not begin with the snapshot's"):
        engine.add([5, 6, 7], GREEDY, after=snapshot)
    with pytest.raises(fj.RequestError, match="truncate_prompt_tokens"):
        engine.resume(snapshot, replace(GREEDY, truncate_prompt_tokens=4))
    finish(engine, request)
    engine.release(snapshot)


def test_a_snapshot_of_another_engine_is_computed_anew(llm):
    with make_llm("dense", replace(ENGINE, page_size=8)) as other:
        request = started(other)
        snapshot = other.engine.snapshot(request)
        finish(other.engine, request)
        rest = replace(GREEDY, max_tokens=3)
        here = finish(llm.engine, llm.engine.resume(snapshot, rest)).token_ids
        assert here == finish(other.engine, other.engine.resume(snapshot, rest)).token_ids
        llm.engine.release(snapshot)
        other.engine.release(snapshot)
        assert other.engine.free_pages == other.engine.blocks.num_total


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_prompt_logprobs_of_forks_and_of_resumed_snapshots_are_whole(steps):
    params = replace(GREEDY, prompt_logprobs=1, max_tokens=6)
    with make_llm("dense", replace(ENGINE, max_num_batched_tokens=7)) as llm:
        engine = llm.engine
        request = started(llm, params, steps=steps)
        twin, snapshot = engine.fork(request), engine.snapshot(request)
        while engine.has_work:
            engine.step()
        first, second = engine.take(request), engine.take(twin)
        assert len(first.prompt_logprobs) == len(second.prompt_logprobs) == len(PROMPT)
        for one, other in zip(first.prompt_logprobs[1:], second.prompt_logprobs[1:], strict=True):
            assert {t: pytest.approx(p.logprob, abs=1e-4) for t, p in one.items()} == {
                t: p.logprob for t, p in other.items()
            }
        resumed = engine.resume(snapshot, params)
        while engine.has_work:
            engine.step()
        tables = engine.take(resumed).prompt_logprobs[1:]
        assert len(tables) == len(snapshot.token_ids) - 1
        assert all(np.isfinite(p.logprob) for table in tables for p in table.values())
        engine.release(snapshot)


def test_a_streaming_fork_streams_what_comes_after_the_fork(llm):
    engine = llm.engine
    request = engine.add(PROMPT, GREEDY, streams=True)
    for _ in range(6):
        engine.step()
    twin = engine.fork(request)
    deltas = []
    while engine.has_work:
        deltas += [delta for delta in engine.step() if delta.request_id == twin]
    assert [t for delta in deltas for t in delta.token_ids] == engine.take(twin).outputs[
        0
    ].token_ids
