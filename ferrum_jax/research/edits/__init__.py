"""Changes of a running model, as values: `fj.edits`.

Each function returns a `Taps`. `a + b` does `a` and then `b`. Give one to `llm.generate`,
`llm.score`, `llm.stream` or `llm.capture` as `taps=`, for all prompts or one for each; or to
`fj.forward`. Everything but the kind of change is data: other heads, layers, positions and values
run in the same compiled program, beside one another in one batch.

Positions are given as `spans.position_spans` takes them: None for all, "prompt", "generated",
indices (negative ones from the prompt's end), a slice, or `generated(start, stop)`.
"""

from ferrum_jax.research.edits.ablate import (
    ablate_heads,
    ablate_layer,
    ablate_mlp,
    ablate_neurons,
)
from ferrum_jax.research.edits.change import custom, force_router, scale, steer
from ferrum_jax.research.edits.patch import freeze_attention, patch
from ferrum_jax.research.edits.spans import generated
from ferrum_jax.research.edits.swap import path_patch, swap

__all__ = [
    "ablate_heads",
    "ablate_layer",
    "ablate_mlp",
    "ablate_neurons",
    "custom",
    "force_router",
    "freeze_attention",
    "generated",
    "patch",
    "path_patch",
    "scale",
    "steer",
    "swap",
]
