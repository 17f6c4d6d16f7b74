"""What an engine does not do for models whose layers keep a state per sequence."""

from __future__ import annotations

from ferrum_jax.types import EngineConfig, ModelConfig, UnsupportedError


def check_states(config: ModelConfig, engine: EngineConfig) -> None:
    """Raise `UnsupportedError` for settings that a recurrent state does not allow.

    A page holds the keys and values of its tokens; a state stands at one position only. So such
    models start every sequence from its first token: forks, snapshots, rewinds and preempted
    sequences compute their tokens anew, and what would share or move pages alone is refused.
    """
    if not config.is_recurrent:
        return
    layers = [str(i) for i, spec in enumerate(config.layers) if spec.recurrent is not None]
    first = ", ".join(layers[:8]) + (", ..." if len(layers) > 8 else "")
    if engine.prefix_caching:
        raise UnsupportedError(
            f"prefix_caching=True shares pages, and layers {first} keep a recurrent state, which "
            "no page holds; use prefix_caching=False"
        )
    if engine.speculation is not None:
        raise UnsupportedError(
            f"speculative decoding takes rejected tokens back, and layers {first} keep a recurrent "
            "state, which only goes forward; use speculative=None"
        )
    if engine.preemption == "swap":
        raise UnsupportedError(
            f"preemption='swap' moves pages, and layers {first} keep a recurrent state, which no "
            "page holds; use preemption='recompute'"
        )
