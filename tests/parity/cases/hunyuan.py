"""Hunyuan, dense."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    # Queries and keys are normed after the rope.
    Case("hunyuan_v1_dense", "hunyuan_v1_dense", sized(head_dim=24)),
    # `dynamic` with an alpha is a fixed rope of a larger base.
    Case(
        "hunyuan_v1_dense_options",
        "hunyuan_v1_dense",
        sized(
            head_dim=16,
            num_hidden_layers=2,
            attention_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("dynamic", 500.0, alpha=50.0, factor=3.0),
        ),
    ),
    Case(
        "hunyuan_v1_dense_linear",
        "hunyuan_v1_dense",
        sized(head_dim=24, num_hidden_layers=2, **rope("linear", 500.0, factor=3.0)),
    ),
    Case(
        "hunyuan_v1_dense_hub",
        "hunyuan_v1_dense",
        sized(
            rms_norm_eps=1e-5,
            head_dim=24,
            add_classification_head=False,
            attention_bias=False,
            attention_dropout=0.0,
            attention_head_dim=24,
            bos_token_id=1,
            cla_share_factor=2,
            class_num=0,
            dense_list=[64, 0],
            eod_token_id=7,
            eos_token_id=8,
            hidden_act="silu",
            im_end_id=5,
            im_newline_id=11,
            im_start_id=4,
            initializer_range=0.02,
            mask_init_id=12,
            max_position_embeddings=32768,
            mlp_bias=False,
            norm_type="rms",
            org_vocab_size=96,
            pad_id=9,
            pad_token_id=9,
            pool_type="last",
            pretraining_tp=1,
            rope_scaling={
                "alpha": 1000.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "type": "dynamic",
            },
            rope_theta=10000.0,
            sep_token_id=10,
            text_end_id=7,
            text_start_id=6,
            tie_word_embeddings=True,
            use_cache=True,
            use_cla=False,
            use_qk_norm=True,
            use_rotary_pos_emb=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
