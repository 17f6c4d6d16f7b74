"""OPT: where its norms stand, its positions, and its embeddings of another size."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import NormKind, NormPlacement
from tests.parity.golden import raw_config


def test_positions_begin_at_row_two():
    config = read_config(raw_config("opt"))
    assert (config.max_positions, config.learned_positions, config.position_offset) == (64, 66, 2)


def test_norms_before_the_blocks_have_one_at_the_end():
    config = read_config(raw_config("opt"))
    assert config.layers[0].placement is NormPlacement.PRE
    assert config.final_norm is NormKind.LAYER


@pytest.mark.parametrize("name", ["opt_norm_after", "opt_no_final_norm"])
def test_models_without_a_final_norm(name):
    assert read_config(raw_config(name)).final_norm is None


def test_norms_behind_the_sums_and_narrow_embeddings():
    config = read_config(raw_config("opt_norm_after"))
    assert config.layers[0].placement is NormPlacement.AFTER_SUM
    assert (config.embed_size, config.hidden_size) == (32, 48)
    assert read_config(raw_config("opt")).embed_size is None


def test_a_model_without_biases_and_norm_weights():
    config = read_config(raw_config("opt_bare"))
    spec = config.layers[0]
    assert config.final_norm is spec.norm is NormKind.LAYER_UNSCALED
    biases = (spec.attention.qkv_bias, spec.attention.out_bias, spec.mlp.mlp_bias)
    assert biases == (False, False, False)
