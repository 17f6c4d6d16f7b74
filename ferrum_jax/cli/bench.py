"""Measure a model's speed beside what this machine could do at best.

Prefill and decode rates, time to first token cold and warm, compilation, peak memory, the host's
time per step; beside each its limit, from the memory bandwidth and the matmul rate measured in
turns with it, and the fraction reached. `python -m pydoc ferrum_jax.cli.bench_run` and
`...bench_costs` say how each number is made.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferrum_jax.cli.bench_shapes import SHAPES
from ferrum_jax.cli.options import (
    UsageError,
    add_model_options,
    engine_config,
    positive,
)

if TYPE_CHECKING:
    from ferrum_jax.cli.bench_run import Sizes
    from ferrum_jax.runtime.llm import LLM

HELP = "speed, beside the machine's measured limits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_options(parser, default=None)
    parser.add_argument(
        "--shape", choices=SHAPES, help="a random Llama of this size in place of --model"
    )
    parser.add_argument("--batch", type=_batches, default=[1, 8, 32], help="(default: 1,8,32)")
    for name, default, meaning in (
        ("--prompt-tokens", 128, "tokens of each prompt"),
        ("--new-tokens", 64, "decode steps timed for each batch"),
        ("--rounds", 5, "turns between measuring the machine and measuring the model"),
        ("--limit-megabytes", 512, "size of the array whose reading gives the bandwidth"),
    ):
        about = f"{meaning} (default: {default})"
        parser.add_argument(name, type=positive, default=default, help=about)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the record there; - is stdout, no table"
    )


def _batches(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> None:
    """Measure, and print the table or the record."""
    if args.shape and args.model:
        raise UsageError("--shape and --model exclude each other")
    from ferrum_jax.cli.bench_report import table
    from ferrum_jax.runtime.record import to_json, write_json

    record = _measure(args)
    if args.json is not None and str(args.json) != "-":
        try:
            write_json(args.json, record)
        except OSError as error:
            raise UsageError(f"cannot write {args.json}: {error}") from error
    print(to_json(record) if str(args.json) == "-" else table(record))


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    import jax
    from tqdm import tqdm

    from ferrum_jax.cli.bench_limits import LimitMeter, median_limits
    from ferrum_jax.cli.bench_report import measured_record, memory_record
    from ferrum_jax.cli.bench_run import Sizes, Workload
    from ferrum_jax.runtime.record import environment

    sizes = Sizes(args.prompt_tokens, args.new_tokens, args.rounds)
    start = time.perf_counter()
    llm = _load(args, sizes)
    load_seconds = time.perf_counter() - start
    with llm, tqdm(total=len(args.batch) + 3, disable=not sys.stderr.isatty()) as bar:
        workload = Workload(llm, sizes)
        cold = workload.cold_first_token_seconds()
        for batch in args.batch:
            workload.run_once(batch)
        memory = memory_record(llm)  # before the limits take memory of their own
        bar.update()
        record = environment()
        dtype = str(llm.params.embed.dtype)
        meter = LimitMeter(record["device"]["platform"], dtype, args.limit_megabytes)
        jobs = [partial(workload.time_decode, batch=batch) for batch in args.batch]
        results = []
        for job in (workload.time_first_token, workload.time_prefill, *jobs):
            results.append(measured_record(job(meter)))
            bar.update()
        middle = median_limits(meter.history)
        return {
            **record,
            "model": f"random {args.shape}" if args.shape else args.model or "demo",
            "dtype": dtype,
            "config": llm.config,
            "engine": llm.engine_config,
            "sizes": sizes,
            "limits": {
                "read_bytes_per_second": middle.read_rate,
                "flops_per_second": middle.multiply_rate,
                "by_way": middle,
            },
            "load_seconds": load_seconds,
            "first_token_cold_seconds": cold,
            "compilation_seconds": {str(k): v for k, v in llm.compilations.items()},
            "compilation_cache": getattr(jax.config, "jax_compilation_cache_dir", None),
            "declared_shapes": len(llm.engine.declared_shapes),
            "memory": memory,
            "results": results,
        }


def _load(args: argparse.Namespace, sizes: Sizes) -> LLM:
    """The model, with an engine that holds the largest batch and no more."""
    from ferrum_jax.models import init_params
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.types import DataType

    largest = max(args.batch)
    # Programs of another run would make compiling look free.
    config = engine_config(
        args.engine,
        max_num_seqs=largest,
        max_num_batched_tokens=max(512, largest),
        compile_cache_dir=None,
    )
    if config.speculative is not None:
        raise UsageError(
            "--engine speculative: bench times steps of one token a sequence, and drafts have "
            "more; experiments/012_speculation times them"
        )
    if config.num_devices > 1:
        raise UsageError("--engine mesh: the limits that bench measures are of one device")
    if largest > config.max_num_seqs:
        raise UsageError(f"--batch {largest} is above max_num_seqs = {config.max_num_seqs}")
    length = sizes.prompt + sizes.generated(largest, config)
    config = replace(config, max_model_len=config.max_model_len or length)
    if args.shape is None:
        return LLM.load(args.model or "demo", args.dtype, engine=config)
    model = SHAPES[args.shape].config()
    return LLM(model, init_params(model, dtype=DataType.parse(args.dtype).value), engine=config)
