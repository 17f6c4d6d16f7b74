"""Mamba and Mamba 2."""

from __future__ import annotations

from typing import Any

from .case import Case


def _mamba(**changes: Any) -> dict[str, Any]:
    """64 channels, of which each remembers eight numbers."""
    return {
        "vocab_size": 96,
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 3,
        "layer_norm_epsilon": 1e-3,
    } | changes


def _mamba2(**changes: Any) -> dict[str, Any]:
    """Four heads of 16 that share B and C in pairs; the reference works in chunks of 16."""
    sizes = {"num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 16}
    return _mamba(**(sizes | changes))


_MAMBA = [
    Case("mamba", "mamba", _mamba()),
    Case(
        "mamba_options",
        "mamba",
        _mamba(
            num_hidden_layers=2,
            expand=3,
            conv_kernel=3,
            time_step_rank=5,
            use_bias=True,
            use_conv_bias=False,
            tie_word_embeddings=False,
        ),
    ),
    Case(
        "mamba_hub",
        "mamba",
        _mamba(
            layer_norm_epsilon=1e-5,
            bos_token_id=0,
            conv_kernel=4,
            d_inner=64,
            d_model=32,
            eos_token_id=0,
            expand=2,
            fused_add_norm=True,
            hidden_act="silu",
            initializer_range=0.1,
            intermediate_size=64,
            n_layer=3,
            pad_token_id=0,
            pad_vocab_size_multiple=8,
            rescale_prenorm_residual=False,
            residual_in_fp32=True,
            rms_norm=True,
            ssm_cfg={},
            time_step_floor=0.0001,
            time_step_init_scheme="random",
            time_step_max=0.1,
            time_step_min=0.001,
            time_step_rank=2,
            time_step_scale=1.0,
            use_bias=False,
            use_cache=True,
            use_conv_bias=True,
        ),
        hub_style=True,
    ),
]

_MAMBA2 = [
    Case("mamba2", "mamba2", _mamba2()),
    # dt is about softplus(0) = .7: both limits cut a good part of it.
    Case(
        "mamba2_options",
        "mamba2",
        _mamba2(
            num_hidden_layers=2,
            num_heads=6,
            n_groups=1,
            expand=3,
            conv_kernel=3,
            use_bias=True,
            use_conv_bias=False,
            time_step_limit=[0.5, 0.9],
            tie_word_embeddings=True,
        ),
    ),
    Case(
        "mamba2_hub",
        "mamba2",
        _mamba2(
            layer_norm_epsilon=1e-5,
            bos_token_id=0,
            chunk_size=256,
            conv_kernel=4,
            eos_token_id=0,
            expand=2,
            hidden_act="silu",
            initializer_range=0.1,
            norm_before_gate=True,
            pad_token_id=0,
            rescale_prenorm_residual=False,
            residual_in_fp32=True,
            rms_norm=True,
            tie_word_embeddings=False,
            time_step_floor=0.0001,
            time_step_init_scheme="random",
            time_step_max=0.1,
            time_step_min=0.001,
            time_step_rank=2,
            time_step_scale=1.0,
            use_bias=False,
            use_cache=True,
            use_conv_bias=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

CASES = _MAMBA + _MAMBA2
