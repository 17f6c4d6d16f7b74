"""Cohere 2: which layers slide and turn, and what is refused."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import UnsupportedError
from tests.parity.golden import raw_config


def pattern(name, **changes):
    """By layer: its window, and whether it has a rope."""
    layers = read_config(raw_config(name, **changes)).layers
    return [(spec.attention.window, spec.attention.rope is not None) for spec in layers]


SLIDING, FULL = (8, True), (None, False)


def test_every_fourth_layer_sees_everything_and_has_no_rope():
    assert pattern("cohere2", layer_types=None) == [SLIDING] * 3 + [FULL]


def test_the_period_of_older_files():
    assert pattern("cohere2_hub") == [SLIDING, SLIDING, FULL, SLIDING]


def test_listed_layers():
    assert pattern("cohere2_layer_types") == [FULL, SLIDING, FULL]


def test_pairs_turn_next_to_each_other_and_logits_are_scaled():
    config = read_config(raw_config("cohere2_hub"))
    assert config.layers[0].attention.rope.interleaved
    assert config.logit_scale == 0.75
    bare = raw_config("cohere2_hub")
    del bare["logit_scale"]
    assert read_config(bare).logit_scale == 0.0625


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "rope_neox"),
        ("rotary_pct", 0.5),
        ("use_gated_activation", False),
        ("use_parallel_block", False),
        ("use_qk_norm", True),
        ("head_dim", 24),
    ],
)
def test_blocks_of_another_kind_are_refused(key, value):
    with pytest.raises(UnsupportedError, match=key):
        read_config(raw_config("cohere2_hub", **{key: value}))
