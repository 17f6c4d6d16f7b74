"""The record of a benchmark, and its table."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ferrum_jax.cli.bench_run import Measured
from ferrum_jax.cli.figures import num_parameters
from ferrum_jax.kv import cache_bytes, state_bytes
from ferrum_jax.runtime.devices import peak_memory
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.memory import bytes_text
from ferrum_jax.types import DeviceInfo

COLUMNS = (
    "measure",
    "ms",
    "tokens/s",
    "limit tokens/s",
    "fraction",
    "bound by",
    "of bandwidth",
    "host ms",
)


def measured_record(measured: Measured) -> dict[str, Any]:
    """A measurement and the rates that follow from it."""
    return {
        **dataclasses.asdict(measured),
        "tokens_per_second": measured.tokens_per_second,
        "limit_tokens_per_second": measured.tokens / measured.limit_seconds,
    }


def memory_record(llm: LLM) -> dict[str, Any]:
    """Bytes of weights, pages and recurrent states, and the peak: of the process on the CPU, else
    of the device."""
    leaves = jax.tree_util.tree_leaves(llm.params)
    peak, owner = peak_memory()
    return {
        "weight_bytes": sum(leaf.nbytes for leaf in leaves),
        "cache_bytes": cache_bytes(llm.config, llm.engine.kv),
        "state_bytes": state_bytes(llm.config, llm.engine_config.max_num_seqs),
        "peak_bytes": peak,
        "peak_is_of": owner,
    }


def table(record: dict[str, Any]) -> str:
    """The record for people: a few lines and a Markdown table."""
    return "\n".join([*_head(record), "", *_rows(record["results"]), "", *_tail(record)])


def _head(record: dict[str, Any]) -> list[str]:
    versions, limits, memory = record["versions"], record["limits"], record["memory"]
    ways = limits["by_way"]
    reads = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in ways.read.items())
    products = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in ways.multiply.items())
    return [
        f"ferrum_jax {versions['ferrum_jax']}, jax {versions['jax']}, "
        f"{DeviceInfo(**record['device'])}",
        f"{record['model']}: {num_parameters(record['config']):,} parameters, {record['dtype']}, "
        f"{bytes_text(memory['weight_bytes'])}",
        f"machine: reads {limits['read_bytes_per_second'] / 1e9:.1f} GB/s ({reads})",
        f"         multiplies {limits['flops_per_second'] / 1e9:.0f} Gflop/s ({products})",
    ]


def _rows(results: list[dict[str, Any]]) -> list[str]:
    lines = [COLUMNS, ("---",) + ("---:",) * (len(COLUMNS) - 1)]
    for r in results:
        host = "" if r["host_seconds"] is None else f"{1e3 * r['host_seconds']:.2f}"
        what = f"x {r['tokens'] // r['batch']}" if r["name"] != "decode" else ""
        lines.append(
            (
                f"{r['name']}, {r['batch']} {what}".rstrip(),
                f"{1e3 * r['seconds']:.2f}",
                f"{r['tokens_per_second']:.1f}",
                f"{r['limit_tokens_per_second']:.1f}",
                f"{r['fraction']:.2f}",
                r["bound"],
                f"{r['bandwidth_fraction']:.2f}",
                host,
            )
        )
    return ["| " + " | ".join(line) + " |" for line in lines]


def _tail(record: dict[str, Any]) -> list[str]:
    seconds, memory = record["compilation_seconds"], record["memory"]
    peak = memory["peak_bytes"]
    cached = record["compilation_cache"]
    return [
        f"first token, cold: {record['first_token_cold_seconds']:.2f} s; "
        f"weights loaded in {record['load_seconds']:.2f} s",
        f"compilation: {sum(seconds.values()):.2f} s for {len(seconds)} of "
        f"{record['declared_shapes']} shapes (longest {max(seconds.values()):.2f} s); "
        f"compilation cache {'none' if cached is None else cached}",
        f"memory: peak {'unknown' if peak is None else bytes_text(peak)} of the "
        f"{memory['peak_is_of']}; weights {bytes_text(memory['weight_bytes'])}, "
        f"cache {bytes_text(memory['cache_bytes'])}"
        + (f", states {bytes_text(memory['state_bytes'])}" if memory["state_bytes"] else ""),
    ]
