"""Ministral 3: how its queries grow."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, QueryTemperature, RopeKind
from tests.parity.golden import raw_config


def attention(name, **changes):
    """How the first layer attends."""
    return read_config(raw_config(name, **changes)).layers[0].attention


def test_queries_grow_by_the_figures_of_the_rope():
    assert attention("ministral3").temperature == QueryTemperature(beta=0.4, length=8.0)
    assert attention("ministral3").window == 8
    assert attention("ministral3_hub").temperature == QueryTemperature(beta=0.1, length=8.0)


def test_the_rope_of_a_file_that_names_none():
    spec = attention("ministral3", rope_parameters=None)
    assert spec.temperature == QueryTemperature(beta=0.1, length=16384.0)
    assert spec.rope.scaling.kind is RopeKind.YARN
    assert spec.rope.scaling.factor == 16.0
    assert spec.rope.theta == 1e6


@pytest.mark.parametrize("key", ["llama_4_scaling_beta", "original_max_position_embeddings"])
def test_a_rope_without_a_figure_is_refused(key):
    rope = {k: v for k, v in raw_config("ministral3")["rope_parameters"].items() if k != key}
    with pytest.raises(ConfigError, match=key):
        read_config(raw_config("ministral3", rope_parameters=rope))
