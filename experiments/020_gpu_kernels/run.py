"""Whether the GPU kernels are right on this GPU, and how near to its limits: one command.

python experiments/020_gpu_kernels/run.py

`results.json` is written anew after every measurement, so a run can be stopped anywhere; it stops
by itself in under 9 minutes. `--interpret` runs the same path in a small form on a CPU, and writes
where `--out` says: it shows that the script runs, nothing of a GPU.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calls import cost, kv_bytes, timed_call, worst_error
from clock import copy_bandwidth, matmul_rate, seconds_per_call
from config import DRY, TOLERANCE, Decode, Plan, Prefill
from figure import draw
from peers import jax_peers, torch_peers

sys.path.append(str(Path(__file__).parents[1]))
from gpu_run import GpuRun


def main() -> None:
    """Check, time, and write `results.json` and `roofline.png`."""
    run = GpuRun(Path(__file__).parent, __doc__, full=Plan(), small=DRY)
    for row in measure(run):
        run.add(row, describe(row))
    run.finish(draw, "roofline.png")


def measure(run: GpuRun) -> Iterator[dict[str, Any]]:
    """Rows, the most telling first; none begins when the time is over."""
    plan: Plan = run.plan
    limits = {"bandwidth": copy_bandwidth(plan), "matmul": matmul_rate(plan)}
    yield {"what": "limits", **limits}
    for work in plan.timed[:2]:
        yield guarded(timed_row, work, {}, plan, limits)
    for check in plan.checks:
        for decodes in (False, True):
            if run.left > 0:
                yield guarded(check_row, check, decodes, plan)
    for index, work in enumerate(plan.timed):
        if index >= 2 and run.left > 0:
            yield guarded(timed_row, work, {}, plan, limits)
        if run.left > 0:
            yield from peer_rows(work, plan, run.left)
    for work, tuning in plan.tunings:
        if run.left > 0:
            yield guarded(timed_row, work, tuning, plan, limits)


def guarded(make: Any, *args: Any) -> dict[str, Any]:
    """A row, or what went wrong in its place: one shape must not end the run."""
    try:
        return make(*args)
    except Exception as error:
        return {"what": "error", "of": repr(args[:2]), "error": str(error)[:600]}


def check_row(check: Any, decodes: bool, plan: Plan) -> dict[str, Any]:
    """A check's largest error, and whether it is within the tolerance."""
    worst, tolerance = worst_error(check, decodes, plan), TOLERANCE[check.dtype]
    row = {"what": "check", "decodes": decodes, "worst": worst, "tolerance": tolerance}
    return {**row, "right": worst <= tolerance, "of": asdict(check)}


def timed_row(
    work: Decode | Prefill, tuning: dict[str, int], plan: Plan, limits: dict[str, float]
) -> dict[str, Any]:
    """Device seconds of a call, and its shares of the device's measured limits."""
    named = {"what": type(work).__name__.lower(), "of": asdict(work), "tuning": tuning}
    if kv_bytes(work) > plan.memory_bytes:
        return {**named, "skipped": f"over {plan.memory_bytes / 2**30:.0f} GiB of keys and values"}
    step, given = timed_call(work, tuning, plan)
    q = given.pop("q")
    seconds = seconds_per_call(step, q, given, plan=plan)
    moved, flops = cost(work)
    return {
        **named,
        "seconds": seconds,
        "bytes": moved,
        "flops": flops,
        "of_bandwidth": moved / seconds / limits["bandwidth"],
        "of_matmul": flops / seconds / limits["matmul"],
    }


def peer_rows(work: Decode | Prefill, plan: Plan, left: float) -> Iterator[dict[str, Any]]:
    """What others take for the same work, where they can do it: contiguous, whole, in bf16."""
    alike = isinstance(work, Prefill) or work.kv_dtype == "bfloat16"
    whole = isinstance(work, Decode) or work.queries == work.context
    if not (alike and whole) or work.shape.value_dim is not None or work.page != 16:
        return
    if kv_bytes(work) > plan.memory_bytes or work.implementation != "triton":
        return
    peers = list(jax_peers(work, plan))
    if not plan.interpret:
        peers += torch_peers(work, min(60.0, max(5.0, left)))
    for peer in peers:
        yield {"what": "peer", "of": asdict(work), "work": type(work).__name__.lower(), **peer}


def describe(row: dict[str, Any]) -> str:
    """A row in a line."""
    if row["what"] == "limits":
        return (
            f"copy {row['bandwidth'] / 1e9:,.0f} GB/s, matmul {row['matmul'] / 1e12:,.1f} TFLOP/s"
        )
    if row["what"] == "check":
        verdict = "right" if row["right"] else "WRONG"
        return f"{verdict}: {row['worst']:.1e} of {row['tolerance']:.0e}: {row['of']}"
    if "seconds" not in row:
        return f"{row['what']}: {row.get('skipped') or row.get('error')}: {row.get('of')}"
    text = f"{row.get('peer', row['what'])}: {row['seconds'] * 1e6:,.1f} us"
    if "of_bandwidth" in row:
        text += (
            f", {row['of_bandwidth']:.2f} of the bandwidth, {row['of_matmul']:.2f} of the matmul"
        )
        text += f" {row['tuning'] or ''}"
    return f"{text}: {row['of']}"


if __name__ == "__main__":
    main()
