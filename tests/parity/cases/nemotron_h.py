"""Nemotron H: one mixer a layer, which is Mamba 2, attention, an MLP or experts."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _nemotron(**changes: Any) -> dict[str, Any]:
    """Eight heads of 12 in two groups, so that the inner size is no multiple of the hidden size;
    six experts of 40 and a shared one of 48."""
    sizes = {
        "head_dim": 24,
        "layer_norm_epsilon": 1e-3,
        "mamba_num_heads": 8,
        "mamba_head_dim": 12,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 48,
        "routed_scaling_factor": 1.5,
    }
    config = sized(**(sizes | changes))
    del config["rms_norm_eps"], config["num_hidden_layers"]
    return config


CASES = [
    # One layer of each kind.
    Case("nemotron_h", "nemotron_h", _nemotron(mlp_bias=True)),
    # time_step_min cuts dt; time_step_limit is in this config and transformers never reads it.
    Case(
        "nemotron_h_options",
        "nemotron_h",
        _nemotron(
            layers_block_type=["moe", "linear_attention", "mlp", "full_attention"],
            mlp_hidden_act="gelu",
            use_bias=True,
            use_conv_bias=False,
            conv_kernel=3,
            time_step_min=0.6,
            time_step_limit=[0.0, 0.7],
            n_routed_experts=8,
            num_experts_per_tok=3,
            n_group=4,
            topk_group=2,
            norm_topk_prob=False,
            moe_latent_size=20,
        ),
    ),
    Case(
        "nemotron_h_hub",
        "nemotron_h",
        _nemotron(
            layer_norm_epsilon=1e-5,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=1,
            chunk_size=128,
            conv_kernel=4,
            eos_token_id=2,
            expand=2,
            hidden_dropout=0.0,
            hybrid_override_pattern="MEM*-",
            initializer_range=0.02,
            mamba_hidden_act="silu",
            mamba_proj_bias=False,
            mamba_ssm_cache_dtype="float32",
            mlp_bias=False,
            mlp_hidden_act="relu2",
            moe_latent_size=None,
            moe_shared_expert_overlap=True,
            n_group=1,
            n_shared_experts=1,
            norm_eps=1e-5,
            norm_topk_prob=True,
            num_hidden_layers=5,
            num_logits_to_keep=1,
            num_nextn_predict_layers=0,
            pad_token_id=0,
            partial_rotary_factor=1.0,
            rescale_prenorm_residual=True,
            residual_in_fp32=False,
            rope_theta=10000,
            routed_scaling_factor=2.5,
            sliding_window=None,
            tie_word_embeddings=False,
            time_step_floor=0.0001,
            time_step_limit=[0.0, float("inf")],
            time_step_max=0.1,
            time_step_min=0.001,
            topk_group=1,
            use_bias=False,
            use_cache=True,
            use_conv_bias=True,
            use_mamba_kernels=True,
        )
        | {"num_hidden_layers": 5},
        hub_style=True,
        dtype="bfloat16",
    ),
]
