"""The tuned lens: a logit lens with a trained affine map for each layer (Belrose et al. 2023).

Dimension key: L layers but the last, D model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrum_jax.research.figure import (
    LINES,
    FigurePath,
    new_figure,
    saved,
)
from ferrum_jax.research.prompt import checked_layers
from ferrum_jax.research.reading.lens import LensReading, read_layers
from ferrum_jax.research.reading.translators import Translators, fit_translators, translated
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import ModelConfig, ModelError, RequestError, Taps, WeightError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

FORMAT = "ferrum_jax tuned lens 1"
LAST = 0.1
"""The share of the steps, at the end, that `repr` takes the loss over."""


@dataclass(frozen=True, eq=False)
class TunedLens:
    """A map `x + x W + b` for the residual after every layer but the last. float32.

    Zero W and b are the logit lens, to the bit. The last layer is read as it is.
    """

    weight: Float[np.ndarray, "L D D"]
    bias: Float[np.ndarray, "L D"]
    losses: Float[np.ndarray, "steps L"]
    """KL(model's output || layer's prediction) of each step's batch before its update, in nats."""

    @classmethod
    def identity(cls, config: ModelConfig) -> Self:
        """The lens from which training starts: it reads what the logit lens reads."""
        layers, width = config.num_layers - 1, config.hidden_size
        return cls(
            np.zeros((layers, width, width), np.float32),
            np.zeros((layers, width), np.float32),
            np.zeros((0, layers), np.float32),
        )

    @classmethod
    def fit(
        cls,
        llm: LLM,
        texts: Sequence[Prompt],
        *,
        steps: int = 250,
        batch_tokens: int = 512,
        learning_rate: float = 1e-3,
        chunk_tokens: int = 4096,
        seed: int = 0,
        taps: Taps | None = None,
        progress: bool = True,
    ) -> Self:
        """Train the maps on a corpus, to predict what the model predicts from its last layer.

        Activations are captured for `chunk_tokens` tokens of the shuffled texts at a time (4 bytes
        x layers x D each, on the host), trained on once in batches of shuffled tokens, and dropped;
        a corpus of one chunk is captured once. The optimiser is Adam, its rate falling to zero in a
        line.

        Args:
            steps: batches to train on; the corpus is gone through again as often as it takes.
            batch_tokens: tokens a batch.
            learning_rate: of the first step.
            taps: edits, to fit an edited model.
            progress: show a bar by steps, with the mean KL.

        Raises:
            RequestError: wrong texts or numbers, or a model of a single layer.
            UnsupportedError: edits of the site `logits`, which no layer's residual shows.
        """
        translators, losses = fit_translators(
            llm,
            texts,
            steps=steps,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
            chunk_tokens=chunk_tokens,
            seed=seed,
            taps=taps,
            progress=progress,
        )
        return cls(np.asarray(translators.weight), np.asarray(translators.bias), losses)

    def read(
        self,
        llm: LLM,
        prompt: Prompt,
        layers: int | Iterable[int] | None = None,
        *,
        taps: Taps | None = None,
    ) -> LensReading:
        """What each layer predicts, through the lens; see `logit_lens`.

        Raises:
            ModelError: the lens is of a model of another depth or width.
            RequestError: a wrong prompt or layer.
        """
        config = llm.config
        shape = (config.num_layers - 1, config.hidden_size)
        if self.bias.shape != shape:
            raise ModelError(
                f"this lens is for {self.bias.shape[0] + 1} layers of width {self.bias.shape[1]}; "
                f"the model has {config.num_layers} of {config.hidden_size}: fit a lens for it"
            )
        chosen = checked_layers(layers, config)
        index = list(chosen)
        # The last layer's map is the identity, which is never trained.
        whole = Translators(
            weight=jnp.asarray(np.pad(self.weight, ((0, 1), (0, 0), (0, 0)))[index]),
            bias=jnp.asarray(np.pad(self.bias, ((0, 1), (0, 0)))[index]),
        )

        def translate(resid: Array) -> Array:
            return translated(resid, whole)

        return read_layers(
            llm, prompt, chosen, "resid_post", taps, lens="tuned lens", translate=translate
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file that `load` reads."""
        from safetensors.numpy import save_file

        arrays = {"weight": self.weight, "bias": self.bias, "losses": self.losses}
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        save_file(arrays, path, metadata={"format": FORMAT})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """A lens from the file that `save` wrote.

        Raises:
            WeightError: the file is missing or damaged, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("format") != FORMAT:
                    raise WeightError(f"{path} holds no tuned lens; give a file of TunedLens.save")
                return cls(*(file.get_tensor(name) for name in ("weight", "bias", "losses")))
        except (SafetensorError, OSError) as error:
            raise WeightError(f"{path} cannot be read as a tuned lens: {error}") from error

    def __repr__(self) -> str:
        layers, width = self.bias.shape
        head = f"tuned lens of {layers + 1} layers of width {width}, {len(self.losses)} steps"
        if not len(self.losses):
            return f"{head}: the logit lens"
        last = -(-len(self.losses) // round(1 / LAST))
        rows = ["layer  KL [nats] at the first step, over the last steps"]
        rows += [
            f"{layer:5d}  {self.losses[0, layer]:9.3f}  {self.losses[-last:, layer].mean():9.3f}"
            for layer in range(layers)
        ]
        return "\n".join([head, *rows])

    def plot(self, path: FigurePath = None) -> Figure:
        """The KL of each layer while it was trained.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            RequestError: the lens was not trained.
            UnsupportedError: matplotlib is not installed.
        """
        if not len(self.losses):
            raise RequestError("this lens was not trained; TunedLens.fit records what it plots")
        return _plot(self, path)


def _plot(lens: TunedLens, path: FigurePath) -> Figure:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    steps, layers = lens.losses.shape
    figure, axes = new_figure("TunedLens", 7.0, 4.0)
    ax, shades = axes[0, 0], colormaps["cividis"]
    for layer in range(layers):
        few = layers <= len(LINES)
        colour = LINES[layer] if few else shades(layer / (layers - 1))
        ax.plot(range(1, steps + 1), lens.losses[:, layer], color=colour, lw=1.2)
        if few:
            ax.annotate(
                f" layer {layer}",
                (steps, lens.losses[-max(1, steps // 20) :, layer].mean()),
                color=colour,
                fontsize=8,
                va="center",
            )
    if layers > len(LINES):
        from matplotlib.cm import ScalarMappable

        scale = ScalarMappable(Normalize(0, layers - 1), shades)
        figure.colorbar(scale, ax=ax, fraction=0.03, pad=0.015).set_label("layer", fontsize=9)
    ax.set_yscale("log")
    ax.set_xlabel("step", fontsize=9)
    ax.set_ylabel("KL(model || layer) of the batch [nats]", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    figure.suptitle("tuned lens, while it was trained", fontsize=10.5)
    return saved(figure, path)
