"""What goes into one jitted step and what comes out.

Dimension key: T tokens of the step, R rows (one per sequence in the step), B pages per sequence,
S slots (one per running sequence, kept across steps; slot S is the padding's), L history length,
K alternatives per token, G given ids per token, W words of 32 vocabulary bits, P tokens of bad
words, D draft tokens per row, M = 1 + D of the engine, N = R (1 + D) sampled positions: a row's
last known token and its draft.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import struct

from ferrum_jax.types.taps import TapPlan


@dataclass(frozen=True, order=True)
class StepShape:
    """A declared shape of the step; one compilation each."""

    tokens: int
    rows: int
    score: bool = False
    """Whether every token's logits are wanted (prompt logprobs), not only each row's last."""
    processes: bool = False
    """Whether more than a temperature may lie between the logits and a token."""
    drafts: int = 0
    """Draft tokens that each row may have behind its known ones."""
    steps: int = 1
    """Decode steps that it may run one after the other, before the host reads any token."""
    plan: TapPlan = field(default_factory=TapPlan)
    """What is captured and edited; a declared shape has none of it."""

    @property
    def decodes(self) -> bool:
        """Whether a row holds one token and its draft, and never a prompt's chunk."""
        return self.tokens == self.rows * (1 + self.drafts)

    def __repr__(self) -> str:
        return f"StepShape({self})"

    def __str__(self) -> str:
        scored, processed = ", scored" * self.score, ", processed" * self.processes
        drafted = f", drafts of {self.drafts}" if self.drafts else ""
        steps = f", {self.steps} steps" if self.steps > 1 else ""
        plan = f", {self.plan}" if self.plan else ""
        return f"{self.tokens} tokens x {self.rows} rows{scored}{processed}{drafted}{steps}{plan}"


@struct.dataclass
class StepBatch:
    """The step's work: row r runs tokens `[starts[r], starts[r + 1])` of the flat token axis.

    The token ids themselves are on the device (`SamplingState.history`); positions follow from
    the lengths. Padding rows have slot S, no tokens and context 0.
    """

    slots: jax.Array
    """int32 [R]"""
    query_starts: jax.Array
    """int32 [R + 1]"""
    context_lens: jax.Array
    """int32 [R]: tokens in the cache when the step is over"""
    samples: jax.Array
    """bool [R]: whether the row's last token is followed by a sampled one"""
    block_tables: jax.Array
    """int32 [R, B]: pages, 0 where there is none"""
    drafts: jax.Array | None = None
    """int32 [R, D]: drafted ids that the row's last tokens are; None where D is 0"""
    num_drafts: jax.Array | None = None
    """int32 [R]: how many of them there are"""
    steps: jax.Array | None = None
    """int32 [R]: tokens that each row samples, one after the other; None where it is one"""

    @property
    def draft_len(self) -> int:
        """D"""
        return 0 if self.drafts is None else self.drafts.shape[1]


@struct.dataclass
class SamplingState:
    """Per slot: the tokens so far, and the sampling parameters. Lives on the device."""

    history: jax.Array
    """int32 [S + 1, L + 1]: prompt and generated tokens by position"""
    prompt_lens: jax.Array
    """int32 [S + 1]"""
    seeds: jax.Array
    """uint32 [S + 1, 2]: the raw random key of each sequence"""
    temperature: jax.Array
    """float32 [S + 1]; 0 is greedy"""
    top_k: jax.Array
    """int32 [S + 1]; 0 keeps all"""
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    presence_penalty: jax.Array
    frequency_penalty: jax.Array
    """float32 [S + 1]"""
    bias_ids: jax.Array
    """int32 [S + 1, 128]; unused entries are 0 with value 0"""
    bias_values: jax.Array
    """float32 [S + 1, 128]"""
    allowed: jax.Array
    """uint32 [S + 1, M, W]: one bit per token id that may be sampled, at so many lengths"""
    allowed_from: jax.Array
    """int32 [S + 1]: the first of these lengths, in tokens that precede the sampled one"""
    restricted: jax.Array
    """bool [S + 1]: whether `allowed` is to be read"""
    num_logprobs: jax.Array
    """int32 [S + 1]: alternatives wanted per sampled token; -1 none, not even its rank"""
    num_prompt_logprobs: jax.Array
    """int32 [S + 1]: the same per prompt token"""
    processed_logprobs: jax.Array
    """bool [S + 1]: whether logprobs are those of the processed logits"""
    given_ids: jax.Array
    """int32 [S + 1, G]: further ids whose logprobs are wanted"""
    num_given: jax.Array
    """int32 [S + 1]: how many of them there are"""
    min_tokens: jax.Array
    """int32 [S + 1]: generated tokens before any of `end_ids`"""
    end_ids: jax.Array
    """int32 [S + 1, 128]: ids that end the sequence; -1 where there is none"""
    bad_tokens: jax.Array
    """int32 [S + 1, P]: the tokens of words that are never completed, one after the other"""
    bad_backs: jax.Array
    """int32 [S + 1, P]: how far each is from its word's last token; -1 where there is none"""
    typical_p: jax.Array
    tfs_z: jax.Array
    """float32 [S + 1]; 1 keeps all"""
    mirostat: jax.Array
    """int32 [S + 1]: the mode, 1 or 2; 0 is none"""
    mirostat_tau: jax.Array
    mirostat_eta: jax.Array
    """float32 [S + 1]"""
    mirostat_mu: jax.Array
    """float32 [S + 1]: the largest surprise allowed now, in bits; every token changes it"""
    adjusts: jax.Array
    """bool [S + 1]: whether anything changes the logits before the temperature does"""
    truncates: jax.Array
    """bool [S + 1]: whether anything truncates the distribution"""


@struct.dataclass
class TokenLogprobs:
    """Log-probabilities (fp32) of chosen tokens, the likeliest and given ones, n positions."""

    chosen: jax.Array
    """float32 [n]"""
    rank: jax.Array
    """int32 [n]: 1 + the number of tokens that are likelier"""
    top_ids: jax.Array
    """int32 [n, K]"""
    top: jax.Array
    """float32 [n, K]"""
    given: jax.Array
    """float32 [n, G]: of the ids that the position's request gave"""
    given_rank: jax.Array
    """int32 [n, G]"""


@struct.dataclass
class StepOutput:
    """What a step leaves for the host, and the sampling state for the next step."""

    tokens: jax.Array
    """int32 [N]: the sampled ids, row after row; meaningful where `StepBatch.samples`, behind a
    draft's token where all of it so far was sampled too"""
    logprobs: TokenLogprobs
    """of the sampled tokens, [N]"""
    failed: jax.Array
    """bool [N]: the position's logits were not finite"""
    stuck: jax.Array
    """bool [N]: processing the position's logits left no distribution to sample from"""
    prompt: TokenLogprobs | None
    """of each token's successor in the history, [T]; None unless the shape scores"""
    sampling: SamplingState
    mirostat_mu: jax.Array
    """float32 [N]: `SamplingState.mirostat_mu` after the sampled token"""
    captured: Any = struct.field(default_factory=dict)
    """`{site: {layer: [T, ...]}}` of what the shape's plan captures"""
    draft_len: int = struct.field(pytree_node=False, default=0)
    """D"""
    steps: int = struct.field(pytree_node=False, default=1)
    """Steps whose results stand one behind the other, each [N]: `StepShape.steps`"""
