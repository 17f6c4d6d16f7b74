"""An engine's metrics in the text format that Prometheus scrapes, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ferrum_jax.types import EngineMetrics, Percentiles

COUNTERS = (
    ("num_steps", "steps", "Steps run."),
    ("busy_seconds", "busy_seconds", "Seconds spent in steps."),
    ("prompt_tokens_computed", "prompt_tokens_computed", "Prompt tokens run through the model."),
    ("generated_tokens", "generated_tokens", "Tokens sampled."),
    ("cached_tokens", "cached_tokens", "Tokens taken over from cached or shared pages."),
    ("drafted_tokens", "drafted_tokens", "Draft tokens verified."),
    ("accepted_tokens", "accepted_tokens", "Draft tokens that were sampled too."),
    ("num_preemptions", "preemptions", "Sequences preempted."),
    ("num_swaps", "swaps", "Sequences whose pages went to host memory."),
    ("num_copied_pages", "copied_pages", "Shared pages copied on write."),
    ("compilations", "compilations", "Step shapes compiled."),
    ("compile_seconds", "compile_seconds", "Seconds spent compiling."),
)
"""Field of `EngineMetrics`, name (between `ferrum_` and `_total`), help; likewise below."""
GAUGES = (
    ("uptime", "uptime_seconds", "Seconds since the start or the last reset."),
    ("since_last_step", "since_last_step_seconds", "Seconds since the newest step started."),
    ("running", "sequences_running", "Sequences that hold a slot."),
    ("waiting", "sequences_waiting", "Sequences that wait for a slot."),
    ("prompt_throughput", "prompt_tokens_per_busy_second", "Prompt tokens computed / busy second."),
    ("generation_throughput", "generated_tokens_per_busy_second", "Tokens sampled / busy second."),
    ("batch_occupancy", "batch_occupancy_ratio", "Mean of rows / max_num_seqs."),
    ("token_occupancy", "token_occupancy_ratio", "Mean of tokens / max_num_batched_tokens."),
    ("page_use", "page_use_ratio", "Share of the KV pages in use."),
    ("peak_page_use", "page_use_peak_ratio", "Largest share of the KV pages in use."),
    ("prefix_hit_rate", "prefix_hit_ratio", "Prompt tokens found in the prefix cache / looked up."),
)
SUMMARIES = (
    ("queue_time", "queue_time_seconds", "Seconds from arrival to first step."),
    ("prefill_time", "prefill_time_seconds", "Seconds from first step to first token."),
    ("decode_time", "decode_time_seconds", "Seconds from first token to end."),
    ("time_to_first_token", "time_to_first_token_seconds", "Seconds from arrival to first token."),
    ("inter_token_latency", "inter_token_latency_seconds", "Seconds between successive tokens."),
)


def to_prometheus(metrics: EngineMetrics) -> str:
    """The metrics as text, all names beginning with `ferrum_`; what is None has no sample."""
    lines: list[str] = []
    for field, name, description in COUNTERS:
        lines += _head(f"{name}_total", "counter", description)
        lines.append(_sample(f"{name}_total", getattr(metrics, field)))
    for field, name, description in GAUGES:
        lines += _head(name, "gauge", description)
        if (value := getattr(metrics, field)) is not None:
            lines.append(_sample(name, value))
    lines += _head("requests_total", "counter", "Requests ended, by finish reason.")
    for reason, count in metrics.requests.items():
        lines.append(_sample("requests_total", count, {"finish_reason": reason}))
    for field, name, description in SUMMARIES:
        lines += _head(name, "summary", description)
        lines += _summary(name, getattr(metrics, field))
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, description: str) -> list[str]:
    return [f"# HELP ferrum_{name} {description}", f"# TYPE ferrum_{name} {kind}"]


def _summary(name: str, times: Percentiles | None) -> list[str]:
    """Quantiles of the newest values; sum and count of all, which only ever grow."""
    if times is None:
        return [_sample(f"{name}_sum", 0.0), _sample(f"{name}_count", 0)]
    quantiles = (("0.5", times.p50), ("0.9", times.p90), ("0.99", times.p99))
    return [
        *(_sample(name, value, {"quantile": quantile}) for quantile, value in quantiles),
        _sample(f"{name}_sum", times.mean * times.count),
        _sample(f"{name}_count", times.count),
    ]


def _sample(name: str, value: float, labels: Mapping[str, str] | None = None) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in (labels or {}).items())
    return f"ferrum_{name}{f'{{{pairs}}}' if pairs else ''} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(value) if isinstance(value, int) else repr(float(value))
