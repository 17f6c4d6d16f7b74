"""What an engine has done since it was made: plain numbers, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Percentiles:
    """The distribution of a time, in seconds.

    The percentiles are those of the newest values, as many as the recorder's window holds; `mean`
    and `count` are those of all values since the start or the last reset.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    count: int


@dataclass(frozen=True)
class EngineMetrics:
    """A snapshot of an engine; counts run from its start or the last reset."""

    uptime: float
    """Seconds since the start or the last reset."""
    since_last_step: float | None
    """Seconds since the newest step started; None before the first."""
    num_steps: int
    busy_seconds: float
    """Seconds spent in steps."""
    requests: dict[str, int]
    """Requests that ended, by the finish reason of their first completion."""
    running: int
    """Sequences that hold a slot."""
    waiting: int
    """Sequences that wait for one, preempted ones among them."""
    prompt_tokens_computed: int
    """Prompt tokens run through the model; those computed again after a preemption count again."""
    generated_tokens: int
    """Tokens sampled. When the host runs ahead, a sequence that ends before its length has sampled
    one token more than it returns; with drafts, as many as were accepted behind its last."""
    cached_tokens: int
    """Tokens that requests which have ended took over from cached or shared pages."""
    drafted_tokens: int
    """Tokens of drafts that were verified; 0 without speculation."""
    accepted_tokens: int
    """Those of them that were sampled too; `generated_tokens` counts them."""
    prompt_throughput: float
    """`prompt_tokens_computed` per second of `busy_seconds`; 0 before the first step has ended."""
    generation_throughput: float
    """`generated_tokens` per second of `busy_seconds`; 0 before the first step has ended."""
    batch_occupancy: float
    """Mean over steps of rows / `max_num_seqs`."""
    token_occupancy: float
    """Mean over steps of tokens / `max_num_batched_tokens`."""
    page_use: float
    """Share of the KV pages that is in use now."""
    peak_page_use: float
    prefix_hit_rate: float | None
    """Prompt tokens found in the prefix cache / looked up; None before the first look-up."""
    num_preemptions: int
    """Of sequences, `num_swaps` among them."""
    num_swaps: int
    """Sequences whose pages went to host memory."""
    num_copied_pages: int
    """Shared pages that were copied because a sequence wrote to them."""
    compilations: int
    compile_seconds: float
    queue_time: Percentiles | None
    prefill_time: Percentiles | None
    decode_time: Percentiles | None
    time_to_first_token: Percentiles | None
    """These four over requests that have ended, as in `Metrics`; None before the first."""
    inter_token_latency: Percentiles | None
    """Over the gaps between tokens of requests that have ended; None before the first."""

    def __str__(self) -> str:
        """A table with one number a line, and one line for each distribution."""
        return "\n".join(
            [
                *_section("engine", self._engine_rows()),
                *_section("requests ended", [(k, f"{n:,}", "") for k, n in self.requests.items()]),
                *_section("tokens", self._token_rows()),
                *_section("use", self._use_rows()),
                *self._latency_rows(),
            ]
        )

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the drafted tokens that were accepted; None before the first."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    def _engine_rows(self) -> list[tuple[str, str, str]]:
        since = self.since_last_step
        return [
            ("uptime", f"{self.uptime:,.2f}", "s"),
            ("since the last step", "-" if since is None else f"{since:,.2f}", "s"),
            ("busy", f"{self.busy_seconds:,.2f}", "s"),
            ("steps", f"{self.num_steps:,}", ""),
            ("running", f"{self.running:,}", "sequences"),
            ("waiting", f"{self.waiting:,}", "sequences"),
            ("compilations", f"{self.compilations:,}", ""),
            ("compiling", f"{self.compile_seconds:,.2f}", "s"),
        ]

    def _token_rows(self) -> list[tuple[str, str, str]]:
        return [
            ("prompt, computed", f"{self.prompt_tokens_computed:,}", "tokens"),
            ("cached or shared", f"{self.cached_tokens:,}", "tokens"),
            ("generated", f"{self.generated_tokens:,}", "tokens"),
            *self._draft_rows(),
            ("prompt throughput", f"{self.prompt_throughput:,.1f}", "tokens/s"),
            ("generation throughput", f"{self.generation_throughput:,.1f}", "tokens/s"),
        ]

    def _draft_rows(self) -> list[tuple[str, str, str]]:
        if not self.drafted_tokens:
            return []
        return [
            ("drafted", f"{self.drafted_tokens:,}", "tokens"),
            ("accepted of them", _percent(self.acceptance_rate), "%"),
        ]

    def _use_rows(self) -> list[tuple[str, str, str]]:
        return [
            ("batch occupancy", _percent(self.batch_occupancy), "% of max_num_seqs"),
            ("token occupancy", _percent(self.token_occupancy), "% of max_num_batched_tokens"),
            ("page use", _percent(self.page_use), "%"),
            ("peak page use", _percent(self.peak_page_use), "%"),
            ("prefix hit rate", _percent(self.prefix_hit_rate), "%"),
            ("preemptions", f"{self.num_preemptions:,}", ""),
            ("swapped out", f"{self.num_swaps:,}", ""),
            ("pages copied", f"{self.num_copied_pages:,}", ""),
        ]

    def _latency_rows(self) -> list[str]:
        head = "".join(f"{name:>11}" for name in ("p50", "p90", "p99", "mean", "count"))
        rows = (
            ("queue time", self.queue_time),
            ("prefill time", self.prefill_time),
            ("decode time", self.decode_time),
            ("time to first token", self.time_to_first_token),
            ("inter-token latency", self.inter_token_latency),
        )
        return [f"{'times in ms':<24}{head}", *(f"  {name:<22}{_cells(p)}" for name, p in rows)]


def _section(title: str, rows: list[tuple[str, str, str]]) -> list[str]:
    return [title, *(f"  {name:<22}{value:>11} {unit}".rstrip() for name, value, unit in rows)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _cells(times: Percentiles | None) -> str:
    """Milliseconds, and the count; a dash for each when there are none."""
    if times is None:
        return f"{'-':>11}" * 4 + f"{0:>11}"
    seconds = (times.p50, times.p90, times.p99, times.mean)
    return "".join(f"{1e3 * value:>11,.2f}" for value in seconds) + f"{times.count:>11,}"
