"""`fit`: gradient descent on a trainable's value, the model frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from ferrum_jax.models import Params
from ferrum_jax.research.fit.objective import Loss, batch_loss, next_token_loss
from ferrum_jax.research.fit.result import Fit
from ferrum_jax.research.fit.texts import (
    Batch,
    Text,
    evaluation_batches,
    examples_of,
    training_batches,
)
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.runtime.lengths import length_bound
from ferrum_jax.runtime.record import environment
from ferrum_jax.types import ModelConfig, RequestError

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

Rate = float | Callable[[Any], Any]


def fit(
    llm: LLM,
    trainable: Trainable,
    texts: Sequence[Text],
    *,
    steps: int,
    learning_rate: Rate | None = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int = 8,
    seed: int = 0,
    loss: Loss | None = None,
    held_out: Sequence[Text] | None = None,
    evaluate_every: int | None = None,
    remat: bool = False,
    progress: bool = False,
) -> Fit:
    """Fit something small into a model whose own weights stay as they are.

        fitted = fit(llm, SteeringVector(layer=3), texts, steps=100, learning_rate=0.05)

    Rows are padded to 16 tokens or a power of two, so that a text of n tokens means at most
    log2(n / 16) + 1 compilations. Fits with equal settings share them, whatever the texts and seed.

    Args:
        trainable: `SteeringVector`, `SoftPrompt`, `LoRA`, or a `Trainable` of one's own.
        texts: texts or lists of token ids, of which every token counts; or pairs of a prompt and a
            completion, of which the completion counts.
        learning_rate: of Adam: a number, or an optax schedule. Either this or `optimizer`.
        optimizer: an optax transformation.
        batch_size: texts in a step; at most all of them.
        seed: of the start and of the order of texts.
        loss: `loss(logits [B, S, V], tokens [B, S], mask [B, S])`, to be minimised; see
            `objective.Loss`. None: next-token cross entropy in nats. Define it once: another
            function compiles anew.
        held_out: texts on which the loss is taken before the first step and after the last, each
            batch weighted by the tokens that count.
        evaluate_every: take it every so many steps, too.
        remat: keep less for the gradient and compute more; for large models.
        progress: show a bar by steps, with the loss.

    Raises:
        RequestError: a wrong argument, text or trainable; or the loss is not finite.
        UnsupportedError: the trainable has no place in such a model.
    """
    _check_numbers(steps=steps, batch_size=batch_size, evaluate_every=evaluate_every or 1)
    examples = examples_of(llm, trainable, texts, "texts")
    rows = min(batch_size, len(examples))
    problem = _Problem(
        config=_served_config(llm),
        trainable=_hashable(trainable),
        loss=loss or next_token_loss,
        optimizer=_optimizer(learning_rate, optimizer),
        remat=remat,
    )
    held = () if held_out is None else examples_of(llm, trainable, held_out, "held_out")
    run = _Run(problem, llm.params, evaluation_batches(held, rows), evaluate_every)
    value = run.descend(
        _start(trainable, llm, seed), training_batches(examples, rows, seed), steps, progress
    )
    settings = {
        "steps": steps,
        "optimizer": "adam" if optimizer is None else "given",
        "learning_rate": "schedule" if callable(learning_rate) else learning_rate,
        "batch_size": rows,
        "seed": seed,
        "texts": len(examples),
    }
    return Fit(
        trainable=trainable,
        value=value,
        losses=np.asarray(run.losses, np.float32),
        held_out_steps=np.asarray([step for step, _ in run.held], np.int32),
        held_out_losses=np.asarray([worth for _, worth in run.held], np.float32),
        record={"loss": _loss_name(loss), "settings": settings, **environment()},
    )


@dataclass(frozen=True)
class _Problem:
    """What a step is compiled for. Hashable."""

    config: ModelConfig
    trainable: Trainable
    loss: Loss
    optimizer: optax.GradientTransformation
    remat: bool

    def loss_of(self, value: Value, params: Params, batch: Batch) -> Array:
        return batch_loss(
            value,
            params,
            batch,
            config=self.config,
            trainable=self.trainable,
            loss=self.loss,
            remat=self.remat,
        )


@dataclass
class _Run:
    """A descent, and the losses on its way."""

    problem: _Problem
    params: Params
    held_batches: list[Batch]
    evaluate_every: int | None
    losses: list[float] = dataclasses.field(default_factory=list)
    held: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    def descend(self, value: Value, batches, steps: int, progress: bool) -> dict[str, np.ndarray]:
        """Take the steps; the loss of one is read when the next is under way."""
        state = self.problem.optimizer.init(value)
        under_way: Array | None = None
        with tqdm(total=steps, unit="step", disable=not progress) as bar:
            for step in range(steps):
                if step == 0 or (self.evaluate_every and step % self.evaluate_every == 0):
                    self._evaluate(step, value)
                value, state, worth = _update(
                    self.params, next(batches), value, state, problem=self.problem
                )
                self._read(under_way, bar)
                under_way = worth
            self._read(under_way, bar)
            self._evaluate(steps, value)
        return {name: np.array(x, np.float32) for name, x in value.items()}

    def _read(self, worth: Array | None, bar: tqdm) -> None:
        if worth is None:
            return
        self.losses.append(float(worth))
        if not np.isfinite(self.losses[-1]):
            raise RequestError(
                f"the loss is {self.losses[-1]} in step {len(self.losses) - 1}; lower the learning "
                "rate, or see whether `loss` can divide by zero"
            )
        bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
        bar.update()

    def _evaluate(self, step: int, value: Value) -> None:
        if not self.held_batches:
            return
        found = [
            _evaluate(self.params, batch, value, problem=self.problem)
            for batch in self.held_batches
        ]
        weights = [float(batch.mask.sum()) for batch in self.held_batches]
        self.held.append((step, float(np.average([float(x) for x in found], weights=weights))))


@partial(jax.jit, static_argnames="problem", donate_argnums=(2, 3))
def _update(
    params: Params, batch: Batch, value: Value, state: Any, *, problem: _Problem
) -> tuple[Value, Any, Array]:
    """One step: the next value and state in the memory of the last, and the loss before it."""
    worth, gradients = jax.value_and_grad(problem.loss_of)(value, params, batch)
    updates, state = problem.optimizer.update(gradients, state, value)
    value = optax.apply_updates(value, updates)  # type: ignore[assignment]
    return value, state, worth


@partial(jax.jit, static_argnames="problem")
def _evaluate(params: Params, batch: Batch, value: Value, *, problem: _Problem) -> Array:
    return problem.loss_of(value, params, batch)


def _start(trainable: Trainable, llm: LLM, seed: int) -> Value:
    """A trainable's first value: a copy of its own, since a step reuses its memory."""
    value = trainable.init(llm, seed)
    if not isinstance(value, dict) or not value:
        raise RequestError(
            f"{type(trainable).__name__}.init returns {value!r}; it must be a dict of float arrays"
        )
    for name, x in value.items():
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise RequestError(
                f"{type(trainable).__name__}.init returns {name!r} of dtype {jnp.result_type(x)}; "
                "only floats can be fitted"
            )
    return {name: jnp.array(x, jnp.float32) for name, x in value.items()}


def _served_config(llm: LLM) -> ModelConfig:
    """The config as the engine runs it: a length-dependent rope is that of its longest text."""
    if length_bound(llm.config) is None:
        return llm.config
    return replace(llm.config, rope_length=llm.max_model_len)


def _optimizer(
    learning_rate: Rate | None, optimizer: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    if (learning_rate is None) == (optimizer is None):
        raise RequestError(
            f"learning_rate is {learning_rate!r} and optimizer is {optimizer!r}; give one of them: "
            "a rate for Adam, or an optax transformation"
        )
    if optimizer is not None:
        return optimizer
    assert learning_rate is not None
    if not callable(learning_rate) and not 0 < learning_rate < np.inf:
        raise RequestError(f"learning_rate is {learning_rate!r}; give a number above 0")
    return _adam(learning_rate)


@cache
def _adam(rate: Rate) -> optax.GradientTransformation:
    """One object per rate: another would compile anew."""
    return optax.adam(rate)


def _loss_name(loss: Loss | None) -> str:
    return "loss [nats per token]" if loss is None else getattr(loss, "__name__", "loss")


def _hashable(trainable: Trainable) -> Trainable:
    try:
        hash(trainable)
    except TypeError as error:
        raise RequestError(
            f"{type(trainable).__name__} is not hashable ({error}); make it a frozen dataclass "
            "with tuples in place of lists"
        ) from error
    return trainable


def _check_numbers(**numbers: Any) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise RequestError(f"{name} is {number!r}; give a number from 1")
