"""How many operations a compiled forward has, with and without taps."""

import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
from config import Plan
from edits import KINDS, batch_of

import ferrum_jax as fj
from ferrum_jax.models.taps import TapRun

INSTRUCTION = re.compile(r"^\s+(ROOT )?%?[\w.\-]+ = ", re.MULTILINE)


def count_operations(llm: fj.LLM, plan: Plan) -> dict[str, int]:
    """Instructions of a dense forward of `plan.scored` tokens, after XLA's optimisation."""
    with mock.patch.object(TapRun, "__call__", lambda self, site, x, layer: x):
        counts = {"no taps in the source": _count(llm, plan, fj.Taps())}
    counts["Taps()"] = _count(llm, plan, fj.Taps())
    counts["capture, one layer"] = _count(llm, plan, fj.Taps(("resid_post",), (3,)))
    counts["capture, all layers"] = _count(llm, plan, fj.Taps(("resid_post",)))
    for kind in KINDS[1:-1]:
        batch = batch_of(kind, llm.config, plan, 0)
        assert batch is not None
        counts[f"edit: {kind}"] = _count(llm, plan, batch[0])
    return counts


def _count(llm: fj.LLM, plan: Plan, taps: fj.Taps) -> int:
    tokens = jnp.zeros(plan.scored, jnp.int32)
    forward = partial(fj.forward_capture, config=llm.config, attend=fj.dense_attention)

    def run(params, tokens, positions, taps):
        return forward(params, tokens, positions, None, taps=taps)

    lowered = jax.jit(run).lower(llm.params, tokens, jnp.arange(plan.scored), taps)
    return len(INSTRUCTION.findall(lowered.compile().as_text() or ""))
