"""How an engine runs a model: sizes, policies, kernels. Validated when made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ferrum_jax.types.dtypes import DataType
from ferrum_jax.types.errors import ConfigError, UnsupportedError
from ferrum_jax.types.speculation import Speculation

POLICIES = ("fcfs", "priority", "fair_share", "sjf", "round_robin")
ATTENTIONS = ("auto", "xla", "triton", "mosaic")
EVICTIONS = ("lru", "fifo", "clock")
PREEMPTIONS = ("recompute", "swap")
QUANTIZATIONS = ("int8", "fp8", "int4")


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
    """Who is admitted first and who gives way: fcfs, priority, fair_share, sjf or round_robin."""
    ageing: float = 30.0
    """Seconds of waiting that are worth one level of priority (policy `priority`), or 1,000 tokens
    less of expected work (`sjf`)."""
    client_weights: tuple[tuple[str, float], ...] = ()
    """Shares of the clients under `fair_share`; a mapping or pairs. Clients not named weigh 1."""
    quantum: int = 64
    """Tokens that a sequence generates before it gives its slot to one that waits, under
    `round_robin`."""
    max_waiting: int | None = None
    """Sequences that may wait; a request beyond that is refused. None: any number."""
    chunked_prefill: bool = True
    """Whether a prompt may be cut over several steps; without it a prompt must fit one step."""
    prefix_caching: bool = False
    """Keep full pages by their content when their sequences end, and share them."""
    eviction: str = "lru"
    """Which cached page without an owner is given up first: lru, fifo or clock."""
    preemption: str = "recompute"
    """What a sequence that gives way does: compute its tokens anew, or `swap` them to host memory
    and back."""
    swap_space: float = 4.0
    """GiB of host memory for swapped pages; a sequence beyond that computes anew."""
    kv_dtype: str = "auto"
    """dtype of the cache; `auto`: that of the weights."""
    quantization: str | None = None
    """What weights are kept in: None for their dtype, or projections rounded: `int8` and `fp8`
    with a scale per output channel, `int4` with one for every 32 inputs (`models/quantized.py`)."""
    attention: str = "auto"
    """What computes attention: `xla`, `triton` (Pallas kernels, NVIDIA GPUs from compute capability
    8.0 on), `mosaic` (for Hopper GPUs; not measured yet) or `auto`: triton where the device and the
    model allow it, else xla."""
    batch_invariant: bool = False
    """Logprobs and tokens with the same bits whatever shares the batch: every step runs in tiles of
    one fixed shape (`runtime/tiles.py`)."""
    speculative: Speculation | str | None = None
    """Drafts that one step verifies: a `Speculation`, or its `draft` alone (`ngram`, or the
    directory of a smaller model)."""
    decode_steps: int = 1
    """Tokens that a sequence may gain at a time: where all that run only decode, and none has stop
    strings, a grammar or taps, so many steps are dispatched as one (`runtime/decode_loop.py`)."""
    mesh: tuple[int, ...] | int | None = None
    """Devices that the model is divided over, as `(4,)` or 4: heads, hidden elements, experts and
    the vocabulary (`models/partition.py`). `(2, 4)`: two replicas of so many, for `fj.Replicas`.
    None: the default device."""
    first_device: int = 0
    """Which of jax's devices is the first of the mesh."""
    compile_cache_dir: str | None = "auto"
    """Where compiled programs are kept for the next process: a folder, or `auto`: jax's own
    setting, or else the user's cache folder. None: jax's own setting."""
    run_ahead: bool = True
    """Dispatch a step before the tokens of the one before have reached the host."""

    @property
    def speculation(self) -> Speculation | None:
        """`speculative` as what it stands for."""
        return _speculation(self.speculative)

    @property
    def num_devices(self) -> int:
        """Devices that one model is divided over; 1 without a mesh."""
        return self.mesh[-1] if isinstance(self.mesh, tuple) else 1

    @property
    def num_replicas(self) -> int:
        """Of a mesh of two axes; 1 of any other."""
        return self.mesh[0] if isinstance(self.mesh, tuple) and len(self.mesh) == 2 else 1

    @property
    def draft_len(self) -> int:
        """Tokens of the longest draft; 0 without speculation."""
        return 0 if self.speculation is None else self.speculation.num_tokens

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_weights", _weights(self.client_weights))
        object.__setattr__(self, "speculative", _speculation(self.speculative))
        object.__setattr__(self, "mesh", _mesh(self.mesh))
        self._check_ranges()
        self._check_numbers()
        self._check_choices()
        self._check_supported()

    def _check_ranges(self) -> None:
        for name, low, high in (
            ("page_size", 1, 1024),
            ("num_pages", 2, 2**31 - 1),
            ("max_model_len", 1, 2**24),
            ("max_num_seqs", 1, 65_536),
            ("max_num_batched_tokens", 1, 2**20),
            ("quantum", 1, 2**24),
            ("decode_steps", 1, 64),
            ("first_device", 0, 2**20),
            ("max_waiting", 1, 2**31 - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("num_pages", "max_model_len", "max_waiting"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(
                    f"EngineConfig.{name} is {value!r}; it must be an integer from {low} to {high}"
                )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"EngineConfig.max_num_batched_tokens is {self.max_num_batched_tokens}, below "
                f"max_num_seqs = {self.max_num_seqs}; a decode step needs one token per sequence, "
                "so raise the first or lower the second"
            )

    def _check_numbers(self) -> None:
        for name, low, high in (
            ("memory_fraction", 0.0, 1.0),
            ("ageing", 0.0, 1e9),
            ("swap_space", 0.0, 2.0**20),
        ):
            value = getattr(self, name)
            least = low if name == "swap_space" else math.nextafter(low, 1)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"EngineConfig.{name} is {value!r}; it must be a number")
            if not least <= value <= high:
                bound = "from 0 to" if name == "swap_space" else "above 0 and at most"
                raise ConfigError(f"EngineConfig.{name} is {value!r}; it must be {bound} {high:g}")

    def _check_choices(self) -> None:
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
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ConfigError(
                f"EngineConfig.quantization is {self.quantization!r}; choose "
                f"{', '.join(QUANTIZATIONS)} or None"
            )
        for name in ("chunked_prefill", "prefix_caching", "batch_invariant", "run_ahead"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"EngineConfig.{name} is {getattr(self, name)!r}; it must be True or False"
                )
        if self.kv_dtype != "auto":
            DataType.parse_cache(self.kv_dtype)
        if not isinstance(self.compile_cache_dir, str | None):
            raise ConfigError(
                f"EngineConfig.compile_cache_dir is {self.compile_cache_dir!r}; it must be a "
                "folder's path as a text, 'auto' or None"
            )

        if self.first_device and self.mesh is None:
            raise ConfigError(
                f"EngineConfig.first_device = {self.first_device} is of a mesh, and there is none; "
                "set mesh=1 for that device by itself"
            )

    def _check_supported(self) -> None:
        """This version's limits: each line goes when the feature comes."""
        other = "batch_invariant" * self.batch_invariant or "speculative"
        if self.decode_steps > 1 and (self.batch_invariant or self.speculative is not None):
            raise UnsupportedError(
                f"EngineConfig.decode_steps = {self.decode_steps} does not go with {other}: "
                "a batch-invariant step is one program for everything, and a draft is verified "
                "before the next is made; leave one of the two out"
            )


def _speculation(given: Any) -> Speculation | None:
    if given is None or isinstance(given, Speculation):
        return given
    if isinstance(given, str):
        return Speculation(given)
    raise ConfigError(
        f"EngineConfig.speculative is {given!r}; it must be a Speculation, 'ngram', the directory "
        "of a model that drafts, or None"
    )


def _mesh(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    shape = given if isinstance(given, tuple | list) else (given,)
    if not shape or not all(type(size) is int and size >= 1 for size in shape):
        raise ConfigError(
            f"EngineConfig.mesh is {given!r}; it must be a number of devices, as 4 or (4,), "
            "replicas and the devices of each, as (2, 4), or None"
        )
    if len(shape) > 2:
        raise UnsupportedError(
            f"EngineConfig.mesh = {tuple(shape)} has {len(shape)} axes; there are two, replicas "
            "and the devices that each is divided over"
        )
    return tuple(shape)


def _weights(given: Any) -> tuple[tuple[str, float], ...]:
    """Clients and their weights as sorted pairs, so that equal settings compare and hash equal."""
    pairs = given.items() if isinstance(given, Mapping) else given
    message = (
        f"EngineConfig.client_weights is {given!r}; it must map names of clients to weights "
        "above 0, as in {'research': 3.0}"
    )
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise ConfigError(message)
    weights: dict[str, float] = {}
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ConfigError(message)
        weight = pair[1]
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(message)
        if not 0 < weight < math.inf:
            raise ConfigError(message)
        weights[pair[0]] = float(weight)
    return tuple(sorted(weights.items()))
