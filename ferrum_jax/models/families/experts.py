"""What the families with mixtures of experts share beyond Llama's names and options."""

from __future__ import annotations

from ferrum_jax.models.families.layout import mlp_names, under
from ferrum_jax.models.weights.sources import Source, Stacked, View
from ferrum_jax.types import MoEConfig

PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
NUMBERED = {"gate": "w1", "down": "w2", "up": "w3"}
"""As Mixtral calls them."""


def expert_names(
    prefix: str, moe: MoEConfig, projections: dict[str, str] = PROJECTIONS
) -> dict[str, Source]:
    """Experts that stand apart in the checkpoint, their projections by our names of them."""
    return {
        ours: Stacked(
            tuple(f"{prefix}.experts.{e}.{theirs}.weight" for e in range(moe.num_experts))
        )
        for ours, theirs in projections.items()
    }


def fused(name: str, shape: tuple[int, ...], part: int = 0, *, alternating: bool = False) -> View:
    """Gate (0) or up (1) out of a tensor whose last axis has both, by halves or in turn."""
    whole = (*shape[:-1], 2 * shape[-1])
    axis, size = len(shape) - 1, shape[-1]
    if alternating:
        return View(name, whole, cut=(axis, part, 2 * size, 2))
    return View(name, whole, cut=(axis, part * size, (part + 1) * size, 1))


def shared_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """The expert that every token goes through, if there is one."""
    return {} if moe.shared is None else under("shared", mlp_names(prefix, moe.shared))
