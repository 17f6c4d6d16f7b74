"""What the types with mixtures of experts have in common: tables of weights, impossible choices."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, MLPConfig
from tests.parity.golden import load_case

COUNTS = {
    "deepseek_v2": ("num_experts_per_tok", "n_routed_experts"),
    "deepseek_v3": ("num_experts_per_tok", "n_routed_experts"),
    "dots1": ("num_experts_per_tok", "n_routed_experts"),
    "ernie4_5_moe": ("moe_k", "moe_num_experts"),
    "glm4_moe": ("num_experts_per_tok", "n_routed_experts"),
    "gpt_oss": ("num_experts_per_tok", "num_local_experts"),
    "llama4_text": ("num_experts_per_tok", "num_local_experts"),
    "minimax_m2": ("num_experts_per_tok", "num_local_experts"),
    "qwen2_moe": ("num_experts_per_tok", "num_experts"),
}
"""The keys of how many experts a token takes, and of how many there are."""


@pytest.mark.parametrize("model_type", COUNTS)
def test_more_experts_per_token_than_experts_are_refused(model_type):
    chosen, count = COUNTS[model_type]
    config = load_case(model_type).config
    with pytest.raises(ConfigError, match=f"{config[count] + 1}"):
        read_config(config | {chosen: config[count] + 1})


@pytest.mark.parametrize("model_type", COUNTS)
def test_a_key_that_the_type_does_not_know_is_refused(model_type):
    config = load_case(f"{model_type}_hub").config
    with pytest.raises(ConfigError, match="router_flavour = 'new'"):
        read_config(config | {"router_flavour": "new"})


@pytest.mark.parametrize(
    ("name", "changes", "dense"),
    [
        ("deepseek_v2", {"first_k_dense_replace": 2}, [0, 1]),
        ("deepseek_v3", {"first_k_dense_replace": 0}, []),
        ("glm4_moe", {}, [0]),
        ("dots1", {"first_k_dense_replace": 3}, [0, 1, 2]),
        ("qwen2_moe_window", {}, [0, 2, 3, 4]),
        ("ernie4_5_moe_bias", {}, [0, 1, 2, 4, 5]),
        ("ernie4_5_moe_bias", {"moe_layer_end_index": -1}, [0, 1, 2, 4]),
        ("llama4_text_dense", {"moe_layers": None}, [0, 2]),
        ("llama4_text_layer_types", {}, [1, 2]),
        ("minimax_m2", {}, []),
    ],
)
def test_which_layers_are_dense(name, changes, dense):
    config = read_config(load_case(name).config | changes)
    found = [i for i, spec in enumerate(config.layers) if isinstance(spec.mlp, MLPConfig)]
    assert found == dense
