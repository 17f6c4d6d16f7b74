"""Continuous batching: which sequences run in the next step, and how many of their tokens."""

from ferrum_jax.scheduler.fair_share import FairSharePolicy
from ferrum_jax.scheduler.fcfs import FCFSPolicy
from ferrum_jax.scheduler.limits import check_fits, sequence_limit
from ferrum_jax.scheduler.policy import make_policy
from ferrum_jax.scheduler.priority import PriorityPolicy
from ferrum_jax.scheduler.queue import WaitingQueue
from ferrum_jax.scheduler.round_robin import RoundRobinPolicy
from ferrum_jax.scheduler.scheduler import ContinuousScheduler
from ferrum_jax.scheduler.sjf import SJFPolicy

__all__ = [
    "ContinuousScheduler",
    "FCFSPolicy",
    "FairSharePolicy",
    "PriorityPolicy",
    "RoundRobinPolicy",
    "SJFPolicy",
    "WaitingQueue",
    "check_fits",
    "make_policy",
    "sequence_limit",
]
