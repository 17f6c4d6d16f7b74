"""Whether the fused kernels are right on this GPU, and faster than what XLA fuses: one command.

python experiments/022_gpu_fused/run.py

`results.json` is written anew after every measurement, so a run can be stopped anywhere; it stops
by itself in under 4 minutes. `--interpret` runs the same path in a small form on a CPU, and writes
where `--out` says: it shows that the script runs, nothing of a GPU.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from calls import Call, make_call, tolerance_of, worst_error
from clock import copy_bandwidth, matmul_rate, seconds_per_call
from config import DRY, Plan, Work
from figure import draw

sys.path.append(str(Path(__file__).parents[1]))
from gpu_run import GpuRun


def main() -> None:
    """Check, time, and write `results.json` and `ratios.png`."""
    run = GpuRun(Path(__file__).parent, __doc__, full=Plan(), small=DRY)
    for row in measure(run):
        run.add(row, describe(row))
    run.finish(draw, "ratios.png")


def measure(run: GpuRun) -> Iterator[dict[str, Any]]:
    """Rows, the most telling first; none begins when the time is over."""
    plan: Plan = run.plan
    limits = {"bandwidth": copy_bandwidth(plan), "matmul": matmul_rate(plan)}
    yield {"what": "limits", **limits}
    todo = [
        *((partial(check_row, plan=plan), work) for work in plan.checks),
        *((partial(timed_row, plan=plan, limits=limits), work) for work in plan.timed),
    ]
    for make, work in todo:
        if run.left > 0:
            yield guarded(make, work)


def guarded(make: Callable[[Work], dict[str, Any]], work: Work) -> dict[str, Any]:
    """A row, or what went wrong in its place: one shape must not end the run."""
    try:
        return make(work)
    except Exception as error:
        return {"what": "error", "of": asdict(work), "error": str(error)[:600]}


def check_row(work: Work, plan: Plan) -> dict[str, Any]:
    """A check's largest error, and whether it is within the tolerance."""
    worst, tolerance = worst_error(work, make_call(work), plan.interpret), tolerance_of(work)
    row = {"what": "check", "worst": worst, "tolerance": tolerance, "right": worst <= tolerance}
    return {**row, "of": asdict(work)}


def timed_row(work: Work, plan: Plan, limits: dict[str, float]) -> dict[str, Any]:
    """Device seconds of a kernel and of XLA's program, and the kernel's share of the limits."""
    call = make_call(work)
    estimate = max(call.moved / limits["bandwidth"], call.flops / limits["matmul"])
    kernel = partial(call.kernel, interpret=plan.interpret)
    seconds = seconds_of(call, kernel, estimate, plan)
    row = {
        "what": "timed",
        "of": asdict(work),
        "seconds": seconds,
        "bytes": call.moved,
        "flops": call.flops,
        "of_bandwidth": call.moved / seconds / limits["bandwidth"],
        "of_matmul": call.flops / seconds / limits["matmul"],
    }
    try:
        by_xla = seconds_of(call, call.reference, estimate, plan)
    except Exception as error:  # As where its experts' masked rows take more memory than there is.
        return {**row, "xla_error": str(error)[:300]}
    return {**row, "xla_seconds": by_xla, "ratio": by_xla / seconds}


def seconds_of(call: Call, function: Callable[..., Any], estimate: float, plan: Plan) -> float:
    """Device seconds of a call by the kernel or by its reference."""
    step, state = partial(call.step, function), call.first_state(function)
    return seconds_per_call(step, state, estimate=estimate, plan=plan)


def describe(row: dict[str, Any]) -> str:
    """A row in a line."""
    if row["what"] == "limits":
        return (
            f"copy {row['bandwidth'] / 1e9:,.0f} GB/s, matmul {row['matmul'] / 1e12:,.1f} TFLOP/s"
        )
    if row["what"] == "check":
        verdict = "right" if row["right"] else "WRONG"
        return f"{verdict}: {row['worst']:.1e} of {row['tolerance']:.0e}: {row['of']}"
    if row["what"] == "error":
        return f"error: {row['error']}: {row['of']}"
    ratio = f"{row['ratio']:.2f} times as long" if "ratio" in row else row["xla_error"]
    return (
        f"{row['seconds'] * 1e6:,.1f} us, {row['of_bandwidth']:.2f} of the bandwidth, "
        f"{row['of_matmul']:.2f} of the matmul; XLA: {ratio}: {row['of']}"
    )


if __name__ == "__main__":
    main()
