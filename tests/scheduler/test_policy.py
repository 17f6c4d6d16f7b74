"""Every policy has a name, and under each of them everything ends with its own tokens."""

import pytest

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.scheduler import (
    FairSharePolicy,
    FCFSPolicy,
    PriorityPolicy,
    RoundRobinPolicy,
    SJFPolicy,
    make_policy,
)
from ferrum_jax.types import ConfigError, EngineConfig, Priority
from ferrum_jax.types.engine import POLICIES
from tests.scheduler.helpers import Bench, engine

CLASSES = {
    "fcfs": FCFSPolicy,
    "priority": PriorityPolicy,
    "fair_share": FairSharePolicy,
    "sjf": SJFPolicy,
    "round_robin": RoundRobinPolicy,
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_makes_a_policy_of_its_own(name):
    policy: SchedulingPolicy = make_policy(EngineConfig(policy=name))
    assert type(policy) is CLASSES[name]
    assert make_policy(EngineConfig(policy=name)) is not policy


def test_another_name_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"policy is 'lottery'.*fcfs, priority, fair_share"):
        EngineConfig(policy="lottery")


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("name", POLICIES)
def test_with_too_few_pages_for_all_everything_ends_with_its_own_tokens(name, preemption):
    settings = engine(policy=name, preemption=preemption, quantum=5, prefix_caching=True)
    bench = Bench(settings, num_pages=13, num_host_pages=10)
    for i, prompt_len in enumerate((20, 3, 17, 9, 1, 30, 8)):
        bench.add(prompt_len, 12, client="ab"[i % 2], priority=Priority(i % 4))
    bench.run()
    assert any(sequence.num_preemptions for sequence in bench.sequences)
    bench.check_all_ended()


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"priority"}))
def test_where_priority_does_not_count_a_change_of_it_moves_nobody(name):
    bench = Bench(engine(policy=name, max_num_seqs=1, run_ahead=False), num_pages=20)
    first, second, third = (bench.add(4, 4) for _ in range(3))
    bench.step()
    bench.scheduler.update_priority(second, Priority.LOW)
    bench.scheduler.update_priority(second, Priority.CRITICAL)
    for sequence in (first, second, third):
        assert not sequence.finished
        for _ in bench.steps_until_finished(sequence):
            pass
    bench.check_all_ended()
