"""How an engine runs a model: sizes, policies, kernels. Validated when made."""

from __future__ import annotations

from dataclasses import dataclass

from ferrum_jax.types.dtypes import DataType
from ferrum_jax.types.errors import ConfigError, UnsupportedError

POLICIES = ("fcfs", "priority", "fair_share", "sjf", "round_robin")
ATTENTIONS = ("auto", "xla", "triton", "mosaic")
EVICTIONS = ("lru", "fifo", "clock")
PREEMPTIONS = ("recompute", "swap")


@dataclass(frozen=True)
class KVCacheConfig:
    """The shape of a paged cache, sized and settled."""

    num_pages: int
    """Pages in the pool, the trash page (page 0) counted."""
    page_size: int
    """Tokens a page."""
    dtype: DataType


@dataclass(frozen=True)
class EngineConfig:
    """Settings of an engine.

    Raises:
        ConfigError: a value outside its range.
        UnsupportedError: a value that is meaningful but that this version does not run.
    """

    page_size: int = 16
    """Tokens a KV page."""
    num_pages: int | None = None
    """KV pages in the pool, the trash page counted; None: from `memory_fraction`."""
    memory_fraction: float = 0.8
    """Share of the free device memory that the cache may take, at most what `max_num_seqs`
    sequences of `max_model_len` tokens can fill."""
    max_model_len: int | None = None
    """Tokens in a sequence, prompt and generation; None: the model's own, at most 8192."""
    max_num_seqs: int = 64
    """Sequences in one step."""
    max_num_batched_tokens: int = 512
    """Tokens in one step, prefill chunks and decodes together."""
    policy: str = "fcfs"
    chunked_prefill: bool = True
    """Whether a prompt may be cut over several steps; without it a prompt must fit one step."""
    prefix_caching: bool = False
    eviction: str = "lru"
    preemption: str = "recompute"
    kv_dtype: str = "auto"
    """dtype of the cache; `auto`: that of the weights."""
    quantization: str | None = None
    attention: str = "auto"
    batch_invariant: bool = False
    speculative: str | None = None
    mesh: tuple[int, ...] | None = None
    compile_cache_dir: str | None = None
    """Folder of jax's persistent compilation cache; None: jax's own setting."""
    run_ahead: bool = True
    """Dispatch a step before the tokens of the one before have reached the host."""

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_supported()

    def _check_ranges(self) -> None:
        for name, low, high in (
            ("page_size", 1, 1024),
            ("num_pages", 2, 2**31 - 1),
            ("max_model_len", 1, 2**24),
            ("max_num_seqs", 1, 65_536),
            ("max_num_batched_tokens", 1, 2**20),
        ):
            value = getattr(self, name)
            if value is None and name in ("num_pages", "max_model_len"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(
                    f"EngineConfig.{name} is {value!r}; it must be an integer from {low} to {high}"
                )
        fraction = self.memory_fraction
        if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise ConfigError(
                f"EngineConfig.memory_fraction is {fraction!r}; it must be above 0 and at most 1"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"EngineConfig.max_num_batched_tokens is {self.max_num_batched_tokens}, below "
                f"max_num_seqs = {self.max_num_seqs}; a decode step needs one token per sequence, "
                "so raise the first or lower the second"
            )
        for name, choices in (
            ("policy", POLICIES),
            ("attention", ATTENTIONS),
            ("eviction", EVICTIONS),
            ("preemption", PREEMPTIONS),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"EngineConfig.{name} is {getattr(self, name)!r}; "
                    f"choose one of {', '.join(choices)}"
                )
        if self.kv_dtype != "auto":
            DataType.parse(self.kv_dtype)

    def _check_supported(self) -> None:
        """This version's limits: each line goes when the feature comes."""
        for name, supported in (
            ("policy", ("fcfs",)),
            ("prefix_caching", (False,)),
            ("eviction", ("lru",)),
            ("preemption", ("recompute",)),
            ("quantization", (None,)),
            ("attention", ("auto", "xla")),
            ("batch_invariant", (False,)),
            ("speculative", (None,)),
            ("mesh", (None,)),
        ):
            if getattr(self, name) not in supported:
                raise UnsupportedError(
                    f"EngineConfig.{name} = {getattr(self, name)!r} is not supported in this "
                    f"version; use {' or '.join(repr(v) for v in supported)}"
                )
