"""No setting of scheduler and cache changes what is generated: all equal the plain run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.types.engine import EVICTIONS, POLICIES, PREEMPTIONS
from tests.runtime.models import VOCAB, make_llm

ENGINE = fj.EngineConfig(
    page_size=4, num_pages=200, max_model_len=128, max_num_seqs=4, max_num_batched_tokens=24
)
TIGHT = {"num_pages": 24, "quantum": 3}
ROOT = Path(__file__).parents[2]


def prompts(count: int = 12, seed: int = 0) -> list[list[int]]:
    """Half of them begin with the same 13 tokens."""
    rng = np.random.default_rng(seed)
    beginning = rng.integers(3, VOCAB, 13).tolist()
    drawn = [rng.integers(3, VOCAB, rng.integers(1, 30)).tolist() for _ in range(count)]
    return [beginning + prompt[:12] if i % 2 else prompt for i, prompt in enumerate(drawn)]


def params(index: int) -> fj.SamplingParams:
    return fj.SamplingParams(
        temperature=float(index % 2), seed=index, max_tokens=10 + index % 5, ignore_eos=True
    )


def tokens(outputs) -> list[list[int]]:
    return [c.token_ids for output in outputs for c in output.outputs]


@cache
def plain(kind: str) -> list[list[int]]:
    """What each request gives alone."""
    with make_llm(kind, ENGINE) as llm:
        return [tokens(llm.generate([p], params(i)))[0] for i, p in enumerate(prompts())]


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("policy", "preemption", "eviction"),
    [
        *product(POLICIES, PREEMPTIONS, (None, "lru")),
        *product(("fcfs", "round_robin"), PREEMPTIONS, sorted({*EVICTIONS} - {"lru"})),
    ],
)
def test_policies_preemptions_and_evictions(policy, preemption, eviction):
    cache = {} if eviction is None else {"prefix_caching": True, "eviction": eviction}
    engine = replace(ENGINE, policy=policy, preemption=preemption, **TIGHT, **cache)
    with make_llm("dense", engine) as llm:
        each = [params(i) for i in range(12)]
        levels, clients = ["low", "high", "normal"] * 4, ["a", "b"] * 6
        for _ in range(2):
            outputs = llm.generate(prompts(), each, priority=levels, client=clients)
            assert tokens(outputs) == plain("dense")
        assert llm.engine.free_pages == llm.engine.blocks.num_total
        seen = llm.metrics.snapshot()
    assert seen.num_preemptions > 0
    assert (seen.num_swaps > 0) == (preemption == "swap")
    if eviction is not None:
        assert seen.prefix_hit_rate > 0.05
        assert llm.engine.blocks.num_free == llm.engine.blocks.num_total


@pytest.mark.parametrize("kind", ["windowed", "moe"])
def test_other_models_under_swap_and_a_prefix_cache(kind):
    engine = replace(ENGINE, preemption="swap", prefix_caching=True, **TIGHT)
    with make_llm(kind, engine) as llm:
        each = [params(i) for i in range(12)]
        assert tokens(llm.generate(prompts(), each)) == plain(kind)
        assert tokens(llm.generate(prompts(), each)) == plain(kind)
        seen = llm.metrics.snapshot()
    assert seen.num_swaps > 0
    assert seen.prefix_hit_rate > 0


def test_swapping_without_room_computes_anew():
    with make_llm("dense", replace(ENGINE, preemption="swap", swap_space=0, **TIGHT)) as llm:
        outputs = llm.generate(prompts(), [params(i) for i in range(12)])
        assert tokens(outputs) == plain("dense")
        seen = llm.metrics.snapshot()
        assert seen.num_preemptions > 0 == seen.num_swaps
        assert llm.engine.executor.swapped_bytes == 0


def test_swapped_pages_leave_the_host_with_their_request():
    with make_llm("dense", replace(ENGINE, preemption="swap")) as llm:
        engine = llm.engine
        ids = [engine.add(prompt, params(1)) for prompt in prompts(3)]
        for _ in range(4):
            engine.step()
        engine.preempt(ids[0])
        for _ in range(1):
            engine.step()
        engine.preempt(ids[1])
        engine.abort(ids[1])
        for _ in range(2):
            engine.step()
        while engine.has_work:
            engine.step()
        assert engine.executor.swapped_bytes == 0
        assert engine.free_pages == engine.blocks.num_total
        (alone,) = tokens(llm.generate([prompts(3)[0]], params(1)))
        assert engine.take(ids[0]).outputs[0].token_ids == alone


def test_a_prompt_of_whole_pages_that_is_cached_still_computes_one_token():
    with make_llm("dense", replace(ENGINE, prefix_caching=True)) as llm:
        prompt = prompts()[0][:1] * 16  # 4 pages
        first = llm.generate([prompt], params(0))[0]
        again = llm.generate([prompt], params(0))[0]
    assert first.metrics.cached_tokens == 0
    assert again.metrics.cached_tokens == 12
    assert tokens([first]) == tokens([again])


def test_a_salt_shares_nothing():
    with make_llm("dense", replace(ENGINE, prefix_caching=True)) as llm:
        prompt = [7] * 21
        cached = [
            llm.generate([prompt], params(0), cache_salt=salt)[0].metrics.cached_tokens
            for salt in ("a", "b", "a", "")
        ]
    assert cached == [0, 0, 20, 0]


def test_prompts_of_one_batch_share_their_beginning():
    with make_llm("dense", replace(ENGINE, prefix_caching=True)) as llm:
        outputs = llm.generate(prompts(), [params(i) for i in range(12)])
        assert tokens(outputs) == plain("dense")
        assert sum(output.metrics.cached_tokens for output in outputs) >= 4 * 12


@pytest.mark.parametrize(
    "hasher", [lambda before, page: b"", lambda before, page: bytes([len(page)])]
)
def test_a_hash_that_always_collides_costs_hits_and_no_answer(hasher):
    with make_llm("dense", replace(ENGINE, prefix_caching=True)) as llm:
        llm.engine.blocks.prefix.hash = hasher
        for _ in range(2):
            outputs = llm.generate(prompts(), [params(i) for i in range(12)])
            assert tokens(outputs) == plain("dense")
        assert 0 < len(llm.engine.blocks.prefix) < 4


def test_prompt_logprobs_are_computed_in_full_whatever_is_cached():
    with make_llm("dense", replace(ENGINE, prefix_caching=True)) as llm:
        prompt = [7] * 21
        (fresh,) = llm.score([prompt])
        llm.generate([prompt], params(0))
        (again,) = llm.score([prompt])
    np.testing.assert_array_equal(fresh.logprobs, again.logprobs)


def test_a_request_that_times_out_ends_as_it_stands(monkeypatch):
    with make_llm("dense", ENGINE) as llm:
        engine = llm.engine
        long = replace(params(0), max_tokens=100)
        slow, other = engine.add([5, 6], long, timeout=3600), engine.add([5, 6], long)
        for _ in range(6):
            engine.step()
        waits = engine.add([5, 6], long, timeout=3000)
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 4000)
        monkeypatch.setattr("ferrum_jax.runtime.loop.time", later)
        while engine.has_work:
            engine.step()
        ended = {
            name: engine.take(i).outputs[0]
            for name, i in {"slow": slow, "waits": waits, "other": other}.items()
        }
        assert ended["slow"].finish_reason == ended["waits"].finish_reason == "timeout"
        assert ended["waits"].token_ids == []
        assert 0 < len(ended["slow"].token_ids) < 10
        assert ended["slow"].token_ids == ended["other"].token_ids[: len(ended["slow"].token_ids)]
        assert ended["other"].finish_reason == "length"
        assert engine.metrics.snapshot().requests["timeout"] == 2
        assert engine.free_pages == engine.blocks.num_total


def test_a_full_queue_refuses_and_nothing_of_the_call_stays():
    with make_llm("dense", replace(ENGINE, max_waiting=3)) as llm:
        with pytest.raises(fj.ResourceExhausted, match=r"prompt 3: 3 sequences wait .*= 3"):
            llm.generate(prompts(5), params(0))
        with pytest.raises(fj.ResourceExhausted, match="no room for 4 more"):
            llm.generate([[5]], replace(params(0), n=4))
        assert not llm.engine.has_work
        assert len(llm.generate(prompts(3), params(0))) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": "urgent"}, r"priority is 'urgent'.*low \(0\), normal"),
        ({"priority": 7}, "priority is 7"),
        ({"client": 3}, "client is 3"),
        ({"cache_salt": None}, "cache_salt is None"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": [1.0, 2.0]}, "2 timeout for 1 prompts"),
    ],
)
def test_how_a_request_is_served_is_checked(options, says):
    llm = make_llm("dense", ENGINE)
    with pytest.raises(fj.RequestError, match=says):
        llm.generate([[5]], params(0), **options)
    assert not llm.engine.has_work


def test_priorities_decide_and_can_be_changed():
    with make_llm("dense", replace(ENGINE, policy="priority", max_num_seqs=1)) as llm:
        engine = llm.engine
        running = engine.add([5], params(0))
        engine.step()
        ids = {level: engine.add([6], params(0), priority=level) for level in (0, 1, 2, 3)}
        engine.update_priority(ids[0], "critical")
        order = []
        while engine.has_work:
            for delta in engine.step():
                if delta.finish_reason is not None:
                    order.append(delta.request_id)
        assert order == [running, ids[0], ids[3], ids[2], ids[1]]
        with pytest.raises(fj.RequestError, match="no completion"):
            engine.update_priority(ids[0], "low")


def test_a_priority_can_be_changed_while_any_completion_runs():
    with make_llm("dense", replace(ENGINE, policy="priority")) as llm:
        engine = llm.engine
        (first,) = tokens(llm.generate([[5, 6]], replace(params(1), max_tokens=1)))
        # The first completion stops at once, the second goes on.
        several = replace(params(1), n=2, max_tokens=9, stop_token_ids=(first[0],))
        request = engine.add([5, 6], several)
        for _ in range(5):
            engine.step()
        sequences = engine.scheduler.running
        assert [sequence.index for sequence in sequences] == [1]
        engine.update_priority(request, "critical")
        assert sequences[0].priority is fj.Priority.CRITICAL
        while engine.has_work:
            engine.step()


@pytest.mark.every_case
def test_ten_thousand_requests_leave_nothing_behind():
    """Random lengths and aborts through a small cache: all end, no page or entry stays."""
    command = [sys.executable, "-m", "tests.runtime.many_requests"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert found.returncode == 0, found.stderr[-2000:]
    left = json.loads(found.stdout)
    assert (left["ended"], left["failed"]) == (10_000, 0)
    assert left["free_pages"] == left["pages"] == 59
    assert left["cached_pages"] <= 59
    assert left["swapped_bytes"] == 0
    assert left["host_pages"] > 0
    sizes = left["process_bytes"]
    assert sizes[-1] - sizes[len(sizes) // 3] < 32 * 2**20, f"the process grows: {sizes}"
