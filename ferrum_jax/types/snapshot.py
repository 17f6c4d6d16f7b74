"""A sequence as it stood at one moment, kept as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from ferrum_jax.types.cache import BlockTable
from ferrum_jax.types.taps import Taps


@dataclass(eq=False)
class Snapshot:
    """The tokens of a sequence and its hold on the pages that store their keys and values.

    Pages are shared, not copied. When the pool runs dry the engine takes a snapshot's pages back;
    continuing from it then computes its tokens anew, and nothing else changes.
    """

    token_ids: tuple[int, ...]
    prompt_len: int
    """How many of them are the prompt; the others were generated."""
    cache_salt: str = ""
    taps: Taps | None = field(default=None, repr=False)
    """The edits under which its tokens were computed."""
    edits_digest: str = ""
    num_scheduled: int = 0
    """Leading tokens whose keys and values its pages hold."""
    blocks: BlockTable = field(default_factory=BlockTable, repr=False)
