"""Mamba and Mamba 2: sizes that the file leaves out, limits of the time step, refused options."""

import math

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, UnsupportedError
from tests.parity.golden import case_names, raw_config

CASES = [n for t in ("mamba", "mamba2") for n in case_names(t)]


def without(name, *keys):
    return {k: v for k, v in raw_config(name).items() if k not in keys}


def test_no_layer_has_anything_but_its_mixer():
    for name in CASES:
        for spec in read_config(raw_config(name)).layers:
            assert spec.recurrent is not None
            assert spec.attention is None
            assert spec.mlp is None


def test_a_rank_that_is_auto_is_a_sixteenth_of_the_width_rounded_up():
    def rank(**changes):
        return read_config(raw_config("mamba", **changes)).layers[0].recurrent.dt_rank

    assert rank(time_step_rank="auto") == rank(time_step_rank=2) == 2
    assert rank(time_step_rank="auto", hidden_size=33) == 3
    assert rank(time_step_rank=5) == 5


def test_an_inner_size_beats_the_expansion():
    bare = without("mamba", "intermediate_size")
    assert read_config(bare).layers[0].recurrent.inner_size == 64
    assert read_config(bare | {"expand": 3}).layers[0].recurrent.inner_size == 96
    assert read_config(raw_config("mamba", expand=3)).layers[0].recurrent.inner_size == 64


def test_only_mamba_ties_its_embeddings_by_default():
    assert read_config(without("mamba", "tie_word_embeddings")).tie_embeddings
    assert not read_config(without("mamba2", "tie_word_embeddings")).tie_embeddings


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ([0.5, 0.9], (0.5, 0.9)),
        ([0.0, math.inf], (0.0, math.inf)),
        ([0.0, {"__float__": "Infinity"}], (0.0, math.inf)),
        (None, (0.0, math.inf)),
    ],
)
def test_limits_of_the_time_step(written, limits):
    mixer = read_config(raw_config("mamba2", time_step_limit=written)).layers[0].recurrent
    assert (mixer.dt_min, mixer.dt_max) == limits


@pytest.mark.parametrize("value", [0.5, [0.5], ["low", "high"], [0.0, {"__float__": "NaN"}]])
def test_limits_that_are_no_two_numbers_are_refused(value):
    with pytest.raises(ConfigError, match="time_step_limit"):
        read_config(raw_config("mamba2", time_step_limit=value))


def test_the_gated_norm_runs_over_one_group():
    mixer = read_config(raw_config("mamba2")).layers[0].recurrent
    assert (mixer.inner_size, mixer.num_groups, mixer.norm_group) == (64, 2, 32)
    assert mixer.gate_first


def test_heads_must_make_up_the_inner_size():
    with pytest.raises(ConfigError, match="num_heads"):
        read_config(raw_config("mamba2", num_heads=5))


def test_heads_must_stand_in_their_groups():
    with pytest.raises(ConfigError, match="3 groups"):
        read_config(raw_config("mamba2", n_groups=3))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_another_activation_is_refused_by_name(name):
    with pytest.raises(UnsupportedError, match=r"hidden_act is 'gelu'"):
        read_config(raw_config(name, hidden_act="gelu"))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="surprise"):
        read_config(raw_config(name, surprise=1))
