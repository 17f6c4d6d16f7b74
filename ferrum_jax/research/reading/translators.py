"""The maps of a tuned lens, and their training.

Dimension key: L layers but the last, B tokens of a batch, n tokens of a chunk, D model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float
from tqdm import tqdm

from ferrum_jax.models import Params
from ferrum_jax.research.divergence import kl_divergence
from ferrum_jax.research.prompt import checked_edits
from ferrum_jax.research.reading.lens import lens_logits
from ferrum_jax.runtime.prompts import Prompt, as_prompts
from ferrum_jax.types import ModelConfig, RequestError, Taps, UnsupportedError

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

OPTIMISER = optax.scale_by_adam()


@struct.dataclass
class Translators:
    """Affine maps `x + x weight + bias` of L layers. float32."""

    weight: Any
    """[L, D, D]"""
    bias: Any
    """[L, D]"""


@jax.jit
def translated(resid: Float[Array, "L B D"], maps: Translators) -> Float[Array, "L B D"]:
    """The layers' residuals mapped, in fp32, returned in their own dtype."""
    x = resid.astype(jnp.float32)
    moved = x + jnp.einsum("LBD,LDE->LBE", x, maps.weight) + maps.bias[:, None]
    return moved.astype(resid.dtype)


def fit_translators(
    llm: LLM,
    texts: Sequence[Prompt],
    *,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    chunk_tokens: int,
    seed: int,
    taps: Taps | None,
    progress: bool,
) -> tuple[Translators, Float[np.ndarray, "steps L"]]:
    """Maps that minimise KL(model || layer), and the loss of every step; see `TunedLens.fit`."""
    _check(llm, steps, batch_tokens, learning_rate, chunk_tokens, taps)
    chunks = _chunks(llm, texts, chunk_tokens, seed, taps)
    layers, width = llm.config.num_layers - 1, llm.config.hidden_size
    maps = Translators(jnp.zeros((layers, width, width)), jnp.zeros((layers, width)))
    state, losses = OPTIMISER.init(maps), []  # type: ignore[arg-type]
    batches = _batches(chunks, batch_tokens, seed)
    with tqdm(range(steps), unit="step", disable=not progress) as bar:
        for step in bar:
            rate = learning_rate * (1 - step / steps)
            batch = jnp.asarray(next(batches))
            loss_L, maps, state = _step(llm.params, maps, state, batch, rate, config=llm.config)
            losses.append(np.asarray(loss_L))
            bar.set_postfix_str(f"KL {losses[-1].mean():.3f} nats", refresh=False)
    return maps, np.stack(losses)


@partial(jax.jit, static_argnames="config")
def _step(
    params: Params, maps: Translators, state: Any, resid: Array, rate: Any, *, config: ModelConfig
) -> tuple[Float[Array, " L"], Translators, Any]:
    """One batch: losses before it, then the maps and the optimiser's state after it.

    Layers do not share anything, so each one's gradient is taken on its own: the logits of one
    layer at a time are in memory.
    """
    target = jax.nn.log_softmax(lens_logits(params, resid[-1], config))

    def of_layer(args: tuple[Translators, Array]) -> tuple[Array, Translators]:
        map_of_layer, resid_BD = args

        def loss(one: Translators) -> Array:
            moved = translated(resid_BD[None], jax.tree.map(lambda x: x[None], one))[0]
            return kl_divergence(
                target, jax.nn.log_softmax(lens_logits(params, moved, config))
            ).mean()

        return jax.value_and_grad(loss)(map_of_layer)

    losses, gradients = jax.lax.map(of_layer, (maps, resid[:-1]))
    updates, state = OPTIMISER.update(gradients, state)
    maps = jax.tree.map(lambda x, update: x - rate * update, maps, updates)
    return losses, maps, state


def _chunks(
    llm: LLM, texts: Sequence[Prompt], chunk_tokens: int, seed: int, taps: Taps | None
) -> Iterator[Float[np.ndarray, "layers n D"]]:
    """Residuals after every layer, the last included, of one chunk of texts after the other.

    Endless; texts are captured again each time round, unless they are a single chunk.
    """
    groups = _groups(llm, texts, chunk_tokens, np.random.default_rng(seed))
    held = [_captured(llm, groups[0], taps)] if len(groups) == 1 else None
    while True:
        yield from held or (_captured(llm, group, taps) for group in groups)


def _groups(
    llm: LLM, texts: Sequence[Prompt], chunk_tokens: int, rng: np.random.Generator
) -> list[list[list[int]]]:
    """The texts as token ids, shuffled, in groups of about as many tokens each."""
    prompts = [llm.encode(prompt) for prompt in as_prompts(texts)]
    if not prompts:
        raise RequestError("there are no texts; give at least one")
    shuffled = [prompts[i] for i in rng.permutation(len(prompts))]
    ends = np.cumsum([len(prompt) for prompt in shuffled])
    count = max(1, round(ends[-1] / chunk_tokens))
    members = np.minimum((ends - 1) * count // ends[-1], count - 1)
    groups = [[p for p, g in zip(shuffled, members, strict=True) if g == i] for i in range(count)]
    return [group for group in groups if group]


def _captured(
    llm: LLM, prompts: list[list[int]], taps: Taps | None
) -> Float[np.ndarray, "layers n D"]:
    edits = Taps(edits=checked_edits(taps, llm.config))
    found = llm.capture(prompts, sites=("resid_post",), taps=edits)
    layers = range(llm.config.num_layers)
    return np.stack([np.concatenate([x["resid_post"][i] for x in found]) for i in layers])


def _batches(
    chunks: Iterator[np.ndarray], batch_tokens: int, seed: int
) -> Iterator[Float[np.ndarray, "layers B D"]]:
    """Each chunk's tokens once, shuffled; a chunk's last batch is filled up from its first ones."""
    rng = np.random.default_rng(seed)
    for chunk in chunks:
        count = chunk.shape[1]
        order = rng.permutation(count)
        for start in range(0, count, batch_tokens):
            taken = np.arange(start, start + batch_tokens) % count
            yield chunk[:, order[taken]]


def _check(
    llm: LLM,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    chunk_tokens: int,
    taps: Taps | None,
) -> None:
    if llm.config.num_layers < 2:
        raise RequestError("the model has 1 layer, which is the last: there is nothing to fit")
    counts = {"steps": steps, "batch_tokens": batch_tokens, "chunk_tokens": chunk_tokens}
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise RequestError(f"{name} is {value!r}; it must be an integer of at least 1")
    if not learning_rate > 0:
        raise RequestError(f"learning_rate is {learning_rate!r}; it must be above 0")
    if "logits" in checked_edits(taps, llm.config):
        raise UnsupportedError(
            "edits of the site 'logits' leave no trace in the residual stream that a lens is "
            "fitted to; leave them out"
        )
