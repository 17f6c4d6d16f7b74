"""What is compared and what is timed, as data."""

from dataclasses import dataclass, replace

from ferrum_jax.types import EngineConfig

PROMPTS = (
    "The",
    "def main(",
    "import os\n",
    "class Stack:\n",
    "The for statement",
    "The list.sort() method",
    "Return a new dictionary",
    "for name in sorted(names):\n    print(",
    "A generator is a function that returns an iterator.",
    "If the file cannot be opened, an OSError is raised, and",
    "from dataclasses import dataclass\n\n\n@dataclass\nclass Point:\n    x: float\n",
    'def read(path):\n    """Return the text of a file."""\n    with open(path) as file:\n        ',
    "The with statement\n******************\n\nThe with statement is used to wrap the execution of "
    "a block with methods defined by a context manager. This allows common try ... except ... "
    "finally usage patterns to be encapsulated for convenient reuse.",
    "The with statement\n******************\n\nThe with statement is used to wrap the execution of "
    "a block with methods defined by a context manager. The expression list is evaluated to obtain",
    "Comparisons\n***********\n\nUnlike C, all comparison operations in Python have the same "
    "priority, which is lower than that of any arithmetic, shifting or bitwise operation. Also "
    "unlike C, expressions like a < b < c have the interpretation that is conventional in "
    "mathematics. Comparisons yield boolean values.",
    "Comparisons\n***********\n\nUnlike C, all comparison operations in Python have the same "
    "priority, which is lower than that of any arithmetic, shifting or bitwise operation. Also "
    "unlike C, expressions like a < b < c have the interpretation that is conventional in "
    "mathematics. Comparisons yield boolean values: True or False. Custom rich comparison methods "
    "may return non-boolean values. In this case Python will call bool() on such value",
)


@dataclass(frozen=True)
class Comparison:
    """The same requests under every setting, beside each of them alone."""

    model: str = "demo"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    prompts: tuple[str, ...] = PROMPTS
    """Every other one is continued greedily, the rest by sampling, each with a seed of its own."""
    max_tokens: int = 32
    temperature: float = 0.8
    top_p: float = 0.95
    logprobs: int = 3
    """Alternatives that are compared beside each sampled token's own logprob."""
    order_seed: int = 7

    @property
    def base(self) -> EngineConfig:
        """The engine of the requests alone."""
        return EngineConfig(num_pages=1025, max_num_seqs=64, max_num_batched_tokens=512)

    def engines(self) -> dict[str, EngineConfig]:
        """What is changed in the engine, by the name of the setting."""
        base, few = self.base, replace(self.base, num_pages=25)
        return {
            "64 tokens a step": replace(base, max_num_batched_tokens=64),
            "16 tokens, 8 sequences": replace(base, max_num_batched_tokens=16, max_num_seqs=8),
            "1 sequence a step": replace(base, max_num_seqs=1),
            "24 pages, computed again": few,
            "24 pages, swapped": replace(few, preemption="swap"),
        }


@dataclass(frozen=True)
class Cost:
    """Plain engine and invariant ones, timed in turns."""

    models: tuple[str, ...] = ("demo", "100m")
    """The demo model, and a random Llama of `ferrum_jax.cli.bench_shapes`; both in float32."""
    tile_rows: tuple[int, ...] = (8, 16, 32)
    batches: tuple[int, ...] = (1, 8, 32)
    prompt: int = 64
    """Tokens of the prompts behind which decoding is timed."""
    prefill: int = 512
    """Tokens of the prefill step, one prompt; the demo model takes one less."""
    slice_steps: int = 6
    """Steps of one turn; the first two, which find the device idle, are dropped."""
    rounds: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """The whole experiment."""

    comparison: Comparison = Comparison()
    cost: Cost = Cost()
