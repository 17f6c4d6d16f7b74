"""Continuous batching: which sequences run in the next step, and how many of their tokens."""

from ferrum_jax.scheduler.fcfs import FCFSPolicy
from ferrum_jax.scheduler.limits import check_fits, sequence_limit
from ferrum_jax.scheduler.policy import make_policy
from ferrum_jax.scheduler.scheduler import ContinuousScheduler

__all__ = ["ContinuousScheduler", "FCFSPolicy", "check_fits", "make_policy", "sequence_limit"]
