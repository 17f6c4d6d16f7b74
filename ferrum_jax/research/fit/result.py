"""What a fit leaves: the value, its losses, and how to serve it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float, Int

from ferrum_jax.models.quantized import refuse_quantized
from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.fit.lora import LoRA
from ferrum_jax.research.fit.soft_prompt import SoftPrompt
from ferrum_jax.research.fit.steering import SteeringVector
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.runtime.record import to_json, weights_digest
from ferrum_jax.types import (
    Adapters,
    LowRank,
    ModelError,
    RequestError,
    Taps,
    UnsupportedError,
    WeightError,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

KNOWN: dict[str, type] = {kind.__name__: kind for kind in (LoRA, SoftPrompt, SteeringVector)}
"""Trainables that a file names and `load` makes."""
ENDS = 10
"""Steps whose mean loss `repr` shows."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted value. Serve it by `taps` (vectors, soft prompts) or by `llm` (weights)."""

    trainable: Trainable
    value: Value
    """float32"""
    losses: Float[np.ndarray, " steps"]
    """Of each step's batch, before the step."""
    held_out_steps: Int[np.ndarray, " n"]
    """After how many steps the held-out loss was taken; empty without held-out texts."""
    held_out_losses: Float[np.ndarray, " n"]
    record: dict[str, Any]
    """Settings, versions, device, command and commit."""

    @property
    def taps(self) -> Taps:
        """The edits to serve it by: `llm.generate(prompts, taps=fitted.taps)`.

        Raises:
            UnsupportedError: it is in the weights; use `llm`.
        """
        taps = self.trainable.taps(self.value)
        if not taps.edits:
            raise UnsupportedError(
                f"a {type(self.trainable).__name__} changes weights; serve fitted.llm(llm), or "
                "give requests fitted.adapter(llm) if it is a LoRA"
            )
        return taps

    def adapter(self, llm: LLM) -> Taps:
        """A fitted LoRA apart from the weights, for `taps=` of requests (`LLM.load_adapter`).

        Raises:
            UnsupportedError: it is no LoRA.
            ModelError: it was fitted to a model of another shape.
        """
        if not isinstance(self.trainable, LoRA):
            raise UnsupportedError(
                f"a {type(self.trainable).__name__} is no adapter of weights; use fitted.taps"
            )
        self._check_fits(llm)
        adapters = self.trainable.adapters(llm.config, self.value)
        digest = weights_digest(adapters.changes)
        kind = llm.params.embed.dtype
        cast = {
            path: LowRank(x.a.astype(kind), x.b.astype(kind), x.scales)
            for path, x in adapters.changes.items()
        }
        return Taps(adapters=Adapters(cast, adapters.weights, digest))

    def llm(self, llm: LLM) -> LLM:
        """The model with the value merged into its weights; those that stay are shared.

        Raises:
            UnsupportedError: it changes no weights; use `taps`.
            ModelError: it was fitted to a model of another shape.
        """
        self._check_fits(llm)
        refuse_quantized(llm.params, "merging a fit")
        params = self.trainable.merge(llm.config, llm.params, self.value)
        if params is llm.params:
            raise UnsupportedError(
                f"a {type(self.trainable).__name__} changes no weights; serve it with "
                "llm.generate(prompts, taps=fitted.taps)"
            )
        return llm.alike(llm.config, params)

    def _check_fits(self, llm: LLM) -> None:
        wanted = {name: np.shape(x) for name, x in self.trainable.init(llm, 0).items()}
        held = {name: x.shape for name, x in self.value.items()}
        if wanted != held:
            raise ModelError(
                f"this {type(self.trainable).__name__} was fitted to another model: it holds "
                f"{held}, this model takes {wanted}"
            )

    def wrap(self, token_ids: Sequence[int]) -> list[int]:
        """A prompt as it has to be served: a soft prompt's placeholders in front of it."""
        return self.trainable.wrap(token_ids)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file.

        Raises:
            RequestError: the trainable is no dataclass of plain fields.
        """
        from safetensors.numpy import save_file

        if not dataclasses.is_dataclass(self.trainable):
            raise RequestError(
                f"{type(self.trainable).__name__} is no dataclass; only dataclasses can be saved"
            )
        fields = {
            f.name: getattr(self.trainable, f.name) for f in dataclasses.fields(self.trainable)
        }
        tensors = {f"value.{name}": np.ascontiguousarray(x) for name, x in self.value.items()}
        tensors |= {
            "losses": self.losses,
            "held_out_steps": self.held_out_steps,
            "held_out_losses": self.held_out_losses,
        }
        metadata = {
            "trainable": type(self.trainable).__name__,
            "fields": to_json(fields),
            "record": to_json(self.record),
        }
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path, trainable: Trainable | None = None) -> Self:
        """Read what `save` wrote; a trainable of one's own is given, the others are made.

        Raises:
            WeightError: the file is missing, damaged or no fit.
            RequestError: it is the fit of another trainable.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise WeightError(f"{path} cannot be read as a saved fit: {error}") from error
        if not {"trainable", "fields", "record"} <= metadata.keys():
            raise WeightError(f"{path} is no saved fit; give a file that Fit.save wrote")
        value = {
            name.removeprefix("value."): x
            for name, x in tensors.items()
            if name.startswith("value.")
        }
        return cls(
            trainable=_trainable(metadata, trainable, path),
            value=value,
            losses=tensors["losses"],
            held_out_steps=tensors["held_out_steps"],
            held_out_losses=tensors["held_out_losses"],
            record=json.loads(metadata["record"]),
        )

    def plot(self, path: FigurePath = None) -> Figure:
        """The loss of every step, its running mean, and the held-out loss.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.fit.plot import plot_fit

        return plot_fit(self, path)

    def __repr__(self) -> str:
        first, last = self.losses[:ENDS].mean(), self.losses[-ENDS:].mean()
        count = sum(x.size for x in self.value.values())
        text = (
            f"{self.trainable}: {count:,} numbers, {len(self.losses)} steps, "
            f"loss {first:.4f} to {last:.4f} (means of up to {ENDS} steps)"
        )
        if len(self.held_out_losses):
            text += f", held out {self.held_out_losses[0]:.4f} to {self.held_out_losses[-1]:.4f}"
        return text


def _trainable(metadata: dict[str, str], given: Trainable | None, path: str | Path) -> Trainable:
    name = metadata["trainable"]
    if given is not None:
        if type(given).__name__ != name:
            raise RequestError(
                f"{path} is the fit of a {name}; a {type(given).__name__} was given: give a {name}"
            )
        return given
    if name not in KNOWN:
        raise RequestError(
            f"{path} is the fit of a {name}; give Fit.load(path, trainable={name}(...))"
        )
    return KNOWN[name](**json.loads(metadata["fields"]))
