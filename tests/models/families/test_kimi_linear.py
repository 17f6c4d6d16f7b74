"""Kimi Linear: two spellings of its config, what is refused, where the weights stand."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, KDAConfig, MLAConfig, MoEConfig, UnsupportedError
from tests.parity.golden import load_case, raw_config


def config_of(name, **changes):
    return read_config(raw_config(name, **changes))


def test_the_table_counts_layers_from_one():
    layers = config_of("kimi_linear_hub").layers
    assert [type(spec.recurrent) for spec in layers] == [KDAConfig] * 3 + [type(None)]
    assert isinstance(layers[3].attention, MLAConfig)


def test_every_fourth_layer_after_the_first_attends_where_none_is_listed():
    raw = {k: v for k, v in load_case("kimi_linear").config.items() if k != "layer_types"}
    raw |= {"num_hidden_layers": 9, "mlp_layer_types": ["dense"] * 9}
    layers = read_config(raw).layers
    assert [i for i, spec in enumerate(layers) if spec.attention is not None] == [4, 8]


def test_leading_layers_are_dense():
    layers = config_of("kimi_linear_hub", first_k_dense_replace=2).layers
    assert [isinstance(spec.mlp, MoEConfig) for spec in layers] == [False, False, True, True]
    layers = config_of("kimi_linear_options").layers
    assert [isinstance(spec.mlp, MoEConfig) for spec in layers] == [True, False, True]


def test_both_spellings_mean_the_same():
    raw = load_case("kimi_linear_hub").config
    spelt = {
        "linear_attn_config": None,
        "model_max_length": "max_position_embeddings",
        "moe_renormalize": "norm_topk_prob",
        "num_expert_group": "n_group",
        "num_experts": "num_local_experts",
        "num_experts_per_token": "num_experts_per_tok",
        "num_shared_experts": "n_shared_experts",
    }
    new = {spelt.get(key, key): value for key, value in raw.items()}
    del new[None]
    new |= {
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_head_dim": 12,
        "linear_num_heads": 3,
    }
    assert read_config(new) == read_config(raw)


def test_latent_attention_has_no_positions():
    attention = config_of("kimi_linear").layers[1].attention
    assert attention.rope is None
    assert attention.q_rank is None
    assert attention.scale == pytest.approx((12 + 8) ** -0.5)
    assert config_of("kimi_linear_options").layers[0].attention.q_rank == 24


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tie_word_embeddings", True),
        ("mla_use_nope", False),
        ("moe_router_activation_func", "softmax"),
        ("moe_layer_freq", 2),
        ("hidden_act", "gelu"),
    ],
)
def test_options_that_are_not_run_are_refused_by_name(key, value):
    with pytest.raises(UnsupportedError, match=key):
        config_of("kimi_linear_hub", **{key: value})


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"full_attn_layers": [4], "kda_layers": [1, 2]}, "kda_layers"),
        ({"full_attn_layers": [0], "kda_layers": [1, 2, 3]}, "full_attn_layers"),
        ({"window": 5}, "window"),
    ],
)
def test_a_table_that_does_not_describe_the_layers_is_refused(table, named):
    with pytest.raises(ConfigError, match=named):
        config_of("kimi_linear_hub", linear_attn_config=table)


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="kda_gate_rank"):
        config_of("kimi_linear", kda_gate_rank=4)
