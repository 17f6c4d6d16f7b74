"""A token of each row by top-k, top-p and min-p, without a sort (Pallas-Triton).

One program takes one row. A truncation keeps the logits from a cut upwards, and the cut is found
digit by digit, in a fixed number of passes over the row: float32 numbers lie in the order of their
bits, so it is exactly the k-th largest logit, or the one where the mass reaches top-p. The token is
the largest of logit / temperature + Gumbel noise among those that are kept.

The rules, in this order (`ferrum_jax/sampler/truncate.py` has these, and others that are not here):

- top-k keeps the k largest logits;
- top-p (Holtzman et al. 2020) keeps the likeliest tokens until their mass, of what top-k left,
  reaches top_p;
- min-p (Nguyen et al. 2024) keeps tokens at least min_p times as likely as the likeliest.

Ties: all tokens whose logit equals the cut are kept, which may be more than k of them, or more mass
than needed. The sampler keeps as few of them as suffice, those with the lowest ids. Of equal sums
with the noise the lowest id is taken, as there. The two zeros are equal, and a nan is -inf.

Sums of masses have one order for a size of vocabulary, so a row's token does not depend on its
neighbours.

Dimension key: R rows, V vocabulary, W tokens that are read at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.checks import check_dtype, check_rank, check_shape, check_triton
from pallas_kernels.launch import launch
from pallas_kernels.online import TINY, iota
from pallas_kernels.rules import power_of_two

DIGIT_BITS = 2
"""Bits of a cut that one pass settles, with a sum for each value of the digit but zero."""
WIDTH = 8192
"""Tokens of a row that are read at once."""
WARP_ELEMENTS, MAX_WARPS = 512, 16
SIGN = 1 << 31


@partial(jax.jit, static_argnames="interpret")
def top_p_sample(
    logits: jax.Array,
    gumbel: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """A token of each row, int32 `[R]`: of its truncated softmax, or the likeliest.

    A parameter that is off costs its row no pass. A row without a logit above -inf gives some
    token.

    Args:
        logits: float32 `[R, V]`.
        gumbel: float32 `[R, V]` of standard Gumbel noise; not read where the temperature is 0.
        temperature: float32 `[R]`; 0 takes the largest logit, whatever the other parameters are.
        top_k: int32 `[R]`; 0 is off.
        top_p: float32 `[R]`; 1 is off.
        min_p: float32 `[R]`; 0 is off.
        interpret: run the kernel without a GPU, in jax's interpreter.

    Raises:
        ValueError: arguments that do not fit together.
        NotImplementedError: this jax is older than 0.10.
    """
    options = _Options(temperature, top_k, top_p, min_p)
    _check(logits, gumbel, options)
    check_triton("top_p_sample")
    R, V = logits.shape
    width = min(power_of_two(V), WIDTH)
    (tokens,) = launch(
        partial(_sample_row, width),
        (R,),
        (logits, gumbel, options),
        [jax.ShapeDtypeStruct((R,), jnp.int32)],
        name="fused_top_p_sample",
        num_warps=min(max(width // WARP_ELEMENTS, 1), MAX_WARPS),
        num_stages=2,
        interpret=interpret,
    )
    return tokens


def top_p_sample_reference(
    logits: jax.Array,
    gumbel: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
) -> jax.Array:
    """What `top_p_sample` computes, in plain jnp with a sort."""
    _check(logits, gumbel, _Options(temperature, top_k, top_p, min_p))
    V = logits.shape[1]
    x = _ordered(logits)
    scaled = _scaled(x, jnp.max(x, axis=1, keepdims=True), temperature[:, None])
    order = jnp.argsort(-x, axis=1)
    sorted_RV = jnp.take_along_axis(x, order, axis=1)
    k = jnp.where((top_k > 0) & (top_k < V), top_k, V)
    cut = jnp.take_along_axis(sorted_RV, k[:, None] - 1, axis=1)
    mass = jnp.where(sorted_RV >= cut, jnp.exp(jnp.take_along_axis(scaled, order, axis=1)), 0)
    reached = jnp.cumsum(mass, axis=1)
    missing = reached < jnp.maximum(top_p[:, None] * reached[:, -1:], TINY)
    last = jnp.minimum(jnp.sum(missing, axis=1, keepdims=True), V - 1)
    nucleus = jnp.take_along_axis(sorted_RV, last, axis=1)
    cut = jnp.where(top_p[:, None] < 1, jnp.maximum(cut, nucleus), cut)
    kept = (x >= cut) & (scaled >= jnp.log(min_p)[:, None])
    random = temperature[:, None] > 0
    scores = jnp.where(random, jnp.where(kept, scaled + gumbel, -jnp.inf), x)
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


class _Options(NamedTuple):
    """Of each row; arrays outside the kernel, references inside."""

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any


class _Row(NamedTuple):
    """One row inside the kernel."""

    logits: Any
    index: jax.Array
    width: int
    largest: jax.Array
    temperature: jax.Array

    def lanes(self, chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A chunk's tokens, and which of them there are."""
        lanes = chunk * self.width + iota(self.width)
        return lanes, lanes < self.logits.shape[1]

    def read(self, chunk: jax.Array) -> jax.Array:
        """A chunk's logits; -inf behind the last one."""
        lanes, inside = self.lanes(chunk)
        at = self.logits.at[self.index, lanes]
        return _ordered(plgpu.load(at, mask=inside, other=-jnp.inf))

    def scaled(self, x: jax.Array) -> jax.Array:
        """Logits of the row over its temperature, the largest being 0."""
        return _scaled(x, self.largest, self.temperature)

    def fold(
        self, visit: Callable[[jax.Array, Any], Any], start: Any, wanted: jax.Array | None = None
    ) -> Any:
        """A loop over the row's chunks; over none where `wanted` is False."""
        chunks: Any = pl.cdiv(self.logits.shape[1], self.width)
        if wanted is not None:
            chunks = jnp.where(wanted, jnp.int32(chunks), jnp.int32(0))
        return lax.fori_loop(0, chunks, visit, start)


def _sample_row(
    width: int, logits_ref: Any, gumbel_ref: Any, options: _Options, out_ref: Any
) -> None:
    """One row: its largest logit, the cuts of top-k and top-p, and the token."""
    index = pl.program_id(0)
    temperature, top_k, top_p, min_p = (ref[index] for ref in options)
    row = _Row(logits_ref, index, width, jnp.float32(-jnp.inf), temperature)
    largest = row.fold(lambda i, top: jnp.maximum(top, jnp.max(row.read(i))), row.largest)
    row, random = row._replace(largest=largest), temperature > 0
    ranked = random & (top_k > 0) & (top_k < logits_ref.shape[1])
    cut = _find_cut(row, lambda x: jnp.ones_like(x, jnp.int32), top_k, ranked)
    nucleus = random & (top_p < 1)

    def mass(x: jax.Array) -> jax.Array:
        return jnp.exp(row.scaled(x))

    [whole] = _sums(row, mass, [cut], nucleus)
    # A target of 0 would be reached by no token at all.
    mass_cut = _find_cut(row, mass, jnp.maximum(top_p * whole, TINY), nucleus)
    cut = jnp.maximum(cut, mass_cut)
    out_ref[index] = _best(row, gumbel_ref, cut, jnp.log(min_p))


def _find_cut(
    row: _Row, weigh: Callable[[jax.Array], jax.Array], target: jax.Array, wanted: jax.Array
) -> jax.Array:
    """The largest key from which upwards the weights of the row's tokens sum to `target`.

    Weights are not negative, so the sums fall from key to key, rounded as they are. 0, in no
    passes, where it is not wanted.
    """
    digits = range(1, 1 << DIGIT_BITS)

    def settle(turn: jax.Array, found: jax.Array) -> jax.Array:
        place = (32 - DIGIT_BITS * (turn + 1)).astype(jnp.uint32)
        candidates = [found | (jnp.uint32(digit) << place) for digit in digits]
        for candidate, total in zip(candidates, _sums(row, weigh, candidates), strict=True):
            found = jnp.where(total >= target, candidate, found)
        return found

    passes = jnp.where(wanted, jnp.int32(32 // DIGIT_BITS), jnp.int32(0))
    return lax.fori_loop(0, passes, settle, jnp.uint32(0))


def _sums(
    row: _Row,
    weigh: Callable[[jax.Array], jax.Array],
    cuts: list[jax.Array],
    wanted: jax.Array | None = None,
) -> list[jax.Array]:
    """For each cut the weights of the tokens from it upwards, in one pass, or none."""

    def visit(chunk: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # The -inf behind the last token change no cut: they have no mass and no higher rank.
        x = row.read(chunk)
        keys, weights = _keys(x), weigh(x)
        return tuple(
            total + jnp.where(keys >= cut, weights, 0)
            for cut, total in zip(cuts, sums, strict=True)
        )

    zeros = jnp.zeros_like(weigh(jnp.zeros(row.width, jnp.float32)))
    return [jnp.sum(total) for total in row.fold(visit, (zeros,) * len(cuts), wanted)]


def _best(row: _Row, gumbel_ref: Any, cut: jax.Array, floor: jax.Array) -> jax.Array:
    """The first of the largest scores: with noise among what is kept, or of the logits."""
    random = row.temperature > 0

    def visit(chunk: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, (lanes, inside) = row.read(chunk), row.lanes(chunk)
        scaled = row.scaled(x)
        at = gumbel_ref.at[row.index, lanes]
        noise = plgpu.load(at, mask=inside & random, other=0.0)
        kept = (_keys(x) >= cut) & (scaled >= floor)
        scores = jnp.where(random, jnp.where(kept, scaled + noise, -jnp.inf), x)
        scores = jnp.where(inside, scores, -jnp.inf)
        top = jnp.max(scores)
        token = jnp.min(jnp.where(scores == top, lanes, gumbel_ref.shape[1]))
        ahead = top > best[0]
        return jnp.where(ahead, top, best[0]), jnp.where(ahead, token, best[1])

    return row.fold(visit, (jnp.float32(-jnp.inf), jnp.int32(0)))[1]


def _ordered(x: jax.Array) -> jax.Array:
    """Logits in the order of their bits: one zero instead of two, and -inf for nan."""
    return jnp.where(x == x, jnp.where(x == 0, 0.0, x), -jnp.inf)


def _scaled(x: jax.Array, largest: jax.Array, temperature: jax.Array) -> jax.Array:
    """`(x - largest) / temperature`; at temperature 0 as at 1, where nobody looks at it."""
    below = jnp.where(x == largest, 0.0, x - largest)
    return below / jnp.where(temperature > 0, temperature, 1.0)


def _keys(x: jax.Array) -> jax.Array:
    """uint32 in the order of the numbers: the sign bit is turned, of negative ones all bits."""
    bits, sign = lax.bitcast_convert_type(x, jnp.uint32), jnp.uint32(SIGN)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _check(logits: jax.Array, gumbel: jax.Array, options: _Options) -> None:
    check_rank("logits", logits, 2)
    beside = f"logits {logits.shape}"
    check_dtype("logits", logits, ("float32",))
    check_shape("gumbel", gumbel, logits.shape, beside)
    check_dtype("gumbel", gumbel, ("float32",))
    for name, array in options._asdict().items():
        check_shape(name, array, logits.shape[:1], beside)
        check_dtype(name, array, ("int32" if name == "top_k" else "float32",))
