"""The configs: windows, ropes, and ropes beyond the trained context."""

from collections.abc import Iterator
from dataclasses import replace

from config import Plan

import ferrum_jax as fj
from ferrum_jax.types import ModelConfig
from ferrum_jax.types.model import RopeConfig, RopeKind, RopeScaling

Variants = dict[tuple[str, str], ModelConfig]
"""By (what changes, where)."""


def within(config: ModelConfig, plan: Plan) -> Variants:
    """Variants inside the trained context."""
    return dict(_within(config, plan))


def _within(config: ModelConfig, plan: Plan) -> Iterator[tuple[tuple[str, str], ModelConfig]]:
    for window in plan.windows:
        yield (f"window {window}", "all layers"), fj.edit_layers(config, window=window)
    for theta in plan.thetas:
        rope = RopeConfig(theta=theta)
        yield (f"theta {theta:,.0f}", "all layers"), fj.edit_layers(config, rope=rope)
    yield ("no rope", "all layers"), fj.edit_layers(config, rope=None)
    for layer in range(config.num_layers):
        where, window = f"layer {layer}", plan.layer_window
        yield (f"window {window}", where), fj.edit_layers(config, [layer], window=window)
        yield ("no rope", where), fj.edit_layers(config, [layer], rope=None)


def beyond(config: ModelConfig, plan: Plan) -> dict[str, ModelConfig]:
    """The model as trained, and ways to run it beyond its context."""
    rope = config.layers[0].attention.rope
    assert rope is not None
    trained, head = config.max_positions, config.layers[0].attention.head_dim
    factor = plan.far_length / trained
    config = replace(config, max_positions=plan.far_length)
    linear = RopeScaling(RopeKind.LINEAR, factor, trained)
    yarn = RopeScaling(RopeKind.YARN, factor, trained)
    # The base at which the slowest pair turns as far over `far_length` as it did over the context.
    ntk = replace(rope, theta=rope.theta * factor ** (head / (head - 2)))
    return {
        "as trained": config,
        f"window {plan.far_window}": fj.edit_layers(config, window=plan.far_window),
        f"linear, factor {factor:g}": fj.edit_layers(config, rope=replace(rope, scaling=linear)),
        f"theta {ntk.theta:,.0f}": fj.edit_layers(config, rope=ntk),
        f"yarn, factor {factor:g}": fj.edit_layers(config, rope=replace(rope, scaling=yarn)),
    }
