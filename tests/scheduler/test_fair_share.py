"""Clients that have work get tokens in the proportion of their weights."""

from collections import Counter

import pytest

from ferrum_jax.scheduler import FairSharePolicy
from ferrum_jax.scheduler.fair_share import MAX_CLIENTS
from ferrum_jax.types import Request, RequestState, SamplingParams, ScheduledChunk, Sequence
from tests.scheduler.helpers import Bench, engine


def bench(weights: dict[str, float], *, max_num_seqs: int = 1) -> Bench:
    settings = engine(
        policy="fair_share", client_weights=weights, max_num_seqs=max_num_seqs, run_ahead=False
    )
    return Bench(settings, num_pages=100)


class Load:
    """Clients that always have a few requests in line, and the tokens computed for each."""

    def __init__(self, bench: Bench, lengths: dict[str, int], outstanding: int = 6):
        self.bench, self.lengths, self.outstanding = bench, lengths, outstanding
        self.tokens: Counter[str] = Counter()

    def run(self, steps: int) -> Counter[str]:
        before = self.tokens.copy()
        for _ in range(steps):
            open_now = Counter(s.request.client for s in self.bench.sequences if not s.finished)
            for client, max_tokens in self.lengths.items():
                for _ in range(self.outstanding - open_now[client]):
                    self.bench.add(4, max_tokens, client=client)
            self.bench.sequences = [s for s in self.bench.sequences if not s.finished]
            for chunk in self.bench.step().chunks:
                self.tokens[chunk.sequence.request.client] += chunk.length
        return self.tokens - before

    def shares(self, steps: int) -> dict[str, float]:
        tokens = self.run(steps)
        return {client: count / tokens.total() for client, count in tokens.items()}


@pytest.mark.parametrize("max_num_seqs", [1, 2, 4])
def test_shares_follow_the_weights(max_num_seqs):
    weighted = bench({"a": 3.0, "b": 1.0, "c": 2.0}, max_num_seqs=max_num_seqs)
    load = Load(weighted, dict.fromkeys("abc", 8))
    assert load.shares(1000) == pytest.approx({"a": 3 / 6, "b": 1 / 6, "c": 2 / 6}, abs=0.02)


@pytest.mark.parametrize("max_num_seqs", [1, 2])
def test_long_jobs_buy_no_larger_share(max_num_seqs):
    load = Load(bench({}, max_num_seqs=max_num_seqs), {"long": 40, "short": 3})
    assert load.shares(1500) == pytest.approx({"long": 0.5, "short": 0.5}, abs=0.03)


def test_many_requests_buy_no_larger_share():
    b = bench({})
    many = [b.add(4, 8, client="many") for _ in range(20)]
    few = [b.add(4, 8, client="few") for _ in range(3)]
    ends: list[Sequence] = []
    while not all(s.finished for s in few):
        b.step()
        ends += [s for s in b.sequences if s.finished and s not in ends]
    assert [s.request.client for s in ends] == ["many", "few", "many", "few", "many", "few"]
    assert not many[3].finished


def test_an_idle_client_saves_nothing_up():
    load = Load(bench({"a": 1.0, "b": 1.0}), {"a": 8})
    load.run(300)
    load.lengths = {"a": 8, "b": 8}
    assert load.shares(400) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.03)


def test_a_client_that_waits_loses_nothing_by_asking_for_more():
    """It is not idle: every further request of it would cost it what it was kept waiting for."""
    b = bench({})
    b.add(4, 30, client="runs")
    b.step()
    waits = [b.add(4, 8, client="waits")]
    behind = b.add(4, 8, client="runs")
    for _ in range(29):
        b.step()
        waits.append(b.add(4, 1, client="waits"))
    while not waits[3].finished:
        b.step()
    assert behind.state is RequestState.WAITING, "it had 33 tokens before the other had any"
    b.run()
    b.check_all_ended()


def test_the_client_served_most_gives_way():
    settings = engine(policy="fair_share", client_weights={"paying": 4.0})
    b = Bench(settings, num_pages=5)
    guest, paying = b.add(4, 9, client="guest"), b.add(7, 9, client="paying")
    assert b.step_until_preempted().preempted == (guest,)
    b.run()
    assert paying.num_preemptions == 0
    b.check_all_ended()


def test_accounts_of_clients_that_left_are_dropped():
    policy, params = FairSharePolicy({}), SamplingParams()
    for i in range(2 * MAX_CLIENTS):
        request = Request(i, (1,), params, client=f"client {i}")
        sequence = Sequence(request, 0, max_len=4)
        policy.join(sequence)
        policy.serve([ScheduledChunk(sequence, 0, 1, True)])
    assert len(policy._served) <= MAX_CLIENTS + 1
