"""What is simulated and what is timed, as data. Times in seconds, lengths in tokens."""

from dataclasses import dataclass

from ferrum_jax.types import EngineConfig
from ferrum_jax.types.engine import EVICTIONS, POLICIES

MAX_MODEL_LEN = 2048
PAGE_SIZE = 16


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step: an 8B model in bf16 on an H100 (16 GB of weights, 131 kB of KV a token).

    `base + per_token x tokens + per_row x rows + per_swapped_page x pages moved`.
    """

    base: float = 6e-3
    """Reading the weights at 2.7 TB/s."""
    per_token: float = 32e-6
    """16 GFLOP at 500 TFLOP/s."""
    per_row: float = 5e-6
    """Reading the keys and values of 100 tokens at 2.7 TB/s."""
    per_swapped_page: float = 42e-6
    """2.1 MB to or from host memory at 50 GB/s."""


@dataclass(frozen=True)
class Lengths:
    """A lognormal distribution, cut off on both sides."""

    median: float
    sigma: float
    """Standard deviation of the logarithm."""
    least: int = 1
    most: int = 900


@dataclass(frozen=True)
class Workload:
    """Requests in simulated time."""

    name: str
    count: int
    rates: tuple[float, ...]
    """Requests a second in each state of a Markov-modulated Poisson process; one state: Poisson."""
    holding: tuple[float, ...] = ()
    """Mean seconds in each state, exponentially distributed."""
    prompts: Lengths = Lengths(median=32, sigma=1.0)
    outputs: Lengths = Lengths(median=32, sigma=0.8)
    systems: int = 0
    """System prompts, chosen by Zipf's law (exponent 1), that requests begin with; 0: none."""
    system_lengths: Lengths = Lengths(median=256, sigma=0.5, least=32)
    clients: int = 8
    """Clients by Zipf's law: the first asks for eight times as much as the eighth."""
    priorities: tuple[float, ...] = (0.2, 0.6, 0.15, 0.05)
    """Shares of the levels low, normal, high and critical."""
    seed: int = 0


@dataclass(frozen=True)
class Scale:
    """100,000 requests a workload, up to 4,096 running, the KV pages of 56 GB."""

    count: int = 100_000
    num_pages: int = 26_700
    max_num_seqs: int = 4096
    max_num_batched_tokens: int = 16_384

    def engine(self, workload: Workload) -> EngineConfig:
        return EngineConfig(
            page_size=PAGE_SIZE,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=MAX_MODEL_LEN,
            prefix_caching=workload.systems > 0,
        )

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return (
            Workload("poisson", self.count, rates=(294.0,), seed=1),
            Workload("bursty", self.count, rates=(220.0, 640.0), holding=(20.0, 5.0), seed=2),
            Workload("shared prefix", self.count, rates=(270.0,), systems=300, seed=3),
        )


@dataclass(frozen=True)
class PolicyLoad:
    """The same bursts under each policy, on an engine of 64 slots that they overload."""

    workload: Workload = Workload(
        "bursts", 20_000, rates=(60.0, 300.0), holding=(12.0, 3.0), seed=4
    )
    num_pages: int = 450
    host_pages: int = 4000
    ageing: float = 10.0
    quantum: int = 16
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    window: float = 1.0
    """Over which the clients' shares are compared."""
    runs: tuple[tuple[str, str], ...] = (
        *((policy, "recompute") for policy in POLICIES),
        ("round_robin", "swap"),
    )
    """Policies and what those that give way do."""

    def engine(self, policy: str, preemption: str) -> EngineConfig:
        return EngineConfig(
            page_size=PAGE_SIZE,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=MAX_MODEL_LEN,
            policy=policy,
            ageing=self.ageing,
            quantum=self.quantum,
            preemption=preemption,
        )


@dataclass(frozen=True)
class EvictionLoad:
    """The shared-prefix workload on caches of several sizes."""

    workload: Workload = Workload("shared prefix", 5000, rates=(60.0,), systems=300, seed=5)
    num_pages: tuple[int, ...] = (1500, 2000, 3000, 4000, 6000, 8000, 12_000)
    unlimited_pages: int = 100_000
    """So many that none is ever evicted."""
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    evictions: tuple[str, ...] = EVICTIONS

    def engine(self, eviction: str) -> EngineConfig:
        return EngineConfig(
            page_size=PAGE_SIZE,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=MAX_MODEL_LEN,
            prefix_caching=True,
            eviction=eviction,
        )


@dataclass(frozen=True)
class Steady:
    """Decode steps in which nothing starts and nothing ends."""

    rows: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    policies: tuple[str, ...] = POLICIES
    steps: int = 48
    """Timed steps of each case; three pages' worth."""
    pressed_steps: int = 12
    """The same where pages run out: then fewer and fewer run."""
    clients: int = 8
    prompts: tuple[int, int] = (1, 48)
    """Least and most tokens of the prompts: pages fill up at different steps."""


@dataclass(frozen=True)
class Plan:
    """The whole experiment."""

    scale: Scale = Scale()
    policies: PolicyLoad = PolicyLoad()
    evictions: EvictionLoad = EvictionLoad()
    steady: Steady = Steady()
    cost: StepCost = StepCost()
    limit_seconds: float = 2e-3
    """What `schedule` may take for `limit_rows` running requests."""
    limit_rows: int = 1024


QUICK = Plan(
    scale=Scale(count=2000),
    policies=PolicyLoad(workload=Workload("bursts", 300, (60.0, 300.0), (2.0, 1.0), seed=4)),
    evictions=EvictionLoad(
        workload=Workload("shared prefix", 300, rates=(80.0,), systems=300, seed=5),
        num_pages=(2000, 6000),
    ),
    steady=Steady(rows=(64, 256, 1024), steps=8, pressed_steps=3),
)
"""A smoke run of seconds."""
