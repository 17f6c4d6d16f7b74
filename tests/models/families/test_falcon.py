"""Falcon and BLOOM: layouts of heads, norms, position biases, and what is refused."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.models.families.common import alibi_slopes
from ferrum_jax.types import ConfigError, NormKind, UnsupportedError
from tests.parity.golden import raw_config


def spec(name, **changes):
    """The first layer."""
    return read_config(raw_config(name, **changes)).layers[0]


@pytest.mark.parametrize(
    ("name", "kv_heads"), [("falcon", 1), ("falcon_new", 2), ("falcon_sequential", 4)]
)
def test_the_kv_heads_of_the_three_layouts(name, kv_heads):
    assert spec(name).attention.num_kv_heads == kv_heads


@pytest.mark.parametrize(
    ("name", "parallel", "shared"),
    [
        ("falcon", True, True),
        ("falcon_new", True, False),
        ("falcon_new_one_norm", True, True),
        ("falcon_sequential", False, False),
    ],
)
def test_the_blocks_and_norms_of_falcon(name, parallel, shared):
    assert (spec(name).parallel, spec(name).shared_norm) == (parallel, shared)


def test_the_new_architecture_is_parallel():
    with pytest.raises(ConfigError, match="parallel_attn"):
        read_config(raw_config("falcon_new", parallel_attn=False))


@pytest.mark.parametrize(("name", "norms"), [("falcon", 2), ("falcon_new", 3)])
def test_a_number_of_norms_that_the_block_does_not_have(name, norms):
    with pytest.raises(ConfigError, match="num_ln_in_parallel_attn"):
        read_config(raw_config(name, num_ln_in_parallel_attn=norms))


def test_kv_heads_that_do_not_divide_the_heads_are_refused():
    with pytest.raises(ConfigError, match="num_kv_heads = 3"):
        read_config(raw_config("falcon_new", num_kv_heads=3))


def test_a_residual_behind_the_norm_is_refused_of_falcon():
    key = "apply_residual_connection_post_layernorm"
    with pytest.raises(UnsupportedError, match=key):
        read_config(raw_config("falcon_hub", **{key: True}))


def test_the_position_bias_of_falcon_is_rounded_and_takes_the_place_of_the_rope():
    attention = spec("falcon_alibi").attention
    assert attention.rope is None
    assert attention.alibi_rounded
    exact = alibi_slopes(12)
    assert attention.alibi_slopes != exact
    assert attention.alibi_slopes == pytest.approx(exact, rel=2**-8)
    assert spec("falcon").attention.alibi_slopes is None


def test_bloom_biases_scores_by_position_and_norms_its_embeddings():
    config = read_config(raw_config("bloom"))
    attention = config.layers[0].attention
    assert attention.alibi_slopes == alibi_slopes(3)
    assert not attention.alibi_rounded
    assert config.embed_norm is NormKind.LAYER


def test_the_sizes_of_bloom_by_their_old_names():
    config = read_config(raw_config("bloom_hub"))
    assert (config.hidden_size, config.max_positions) == (48, 64)
    assert config.layers[0].attention.num_heads == 3


def test_the_residual_of_bloom_may_be_the_normed_stream():
    assert spec("bloom_residual_from_norm").residual_from_norm
    assert not spec("bloom").residual_from_norm


def test_bloom_with_another_inner_size_is_refused():
    read_config(raw_config("bloom", n_inner=192))
    with pytest.raises(UnsupportedError, match="n_inner"):
        read_config(raw_config("bloom", n_inner=100))


def test_the_sums_of_bloom_by_parts_are_refused_where_there_is_more_than_one_part():
    read_config(raw_config("bloom", slow_but_exact=True, pretraining_tp=1))
    read_config(raw_config("bloom", slow_but_exact=False, pretraining_tp=4))
    with pytest.raises(UnsupportedError, match="slow_but_exact"):
        read_config(raw_config("bloom", slow_but_exact=True, pretraining_tp=4))
