"""GPT-2 (Radford et al. 2019): LayerNorm, biases, learned positions, projections stored
`[in, out]`."""

from __future__ import annotations

from ferrum_jax.models.families.common import grouped, head_size
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Joined, Plain, Source, View
from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, NormKind

_LAYOUT = Layout(
    embed="transformer.wte",
    final_norm="transformer.ln_f",
    layers="transformer.h",
    norms={"mixer_norm": "ln_1", "mlp_norm": "ln_2"},
    out="attn.c_proj",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gpt2`."""
    width, positions = reader.size("n_embd", 768), reader.size("n_positions", 1024)
    mlp = MLPConfig(
        ffn_size=reader.optional_size("n_inner") or 4 * width,
        activation=reader.activation("activation_function", "gelu_new"),
        gated=False,
        mlp_bias=True,
    )
    _leave_out(reader)
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size", 50257),
        hidden_size=width,
        layers=tuple(
            LayerSpec(attention, mlp, norm=NormKind.LAYER)
            for attention in _attentions(reader, width)
        ),
        max_positions=positions,
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        final_norm=NormKind.LAYER,
        tie_embeddings=reader.flag("tie_word_embeddings", True),
        learned_positions=positions,
    )


def _attentions(reader: ConfigReader, width: int) -> list[AttentionConfig]:
    """By layer: scores may be divided by the number of the layer too."""
    heads = reader.size("n_head", 12)
    size = head_size(reader, width, heads)
    scale = size**-0.5 if reader.flag("scale_attn_weights", True) else 1.0
    by_layer = reader.flag("scale_attn_by_inverse_layer_idx", False)
    return [
        AttentionConfig(
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=size,
            scale=scale / (i + 1) if by_layer else scale,
            rope=None,
            qkv_bias=True,
            out_bias=True,
        )
        for i in range(reader.size("n_layer", 12))
    ]


def _leave_out(reader: ConfigReader) -> None:
    reader.must_be_off("add_cross_attention")
    reader.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "task_specific_params")
    # Of the first versions, in files of the larger sizes.
    reader.ignore("n_special", "output_past", "predict_special_tokens")
    # The order of two products, and the precision of scores that are fp32 here in any case.
    reader.ignore("reorder_and_upcast_attn")
    summary = ("activation", "first_dropout", "proj_to_labels", "type", "use_proj")
    reader.ignore(*(f"summary_{key}" for key in summary))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    table = weight_names(config, _LAYOUT)
    table["positions"] = Plain("transformer.wpe.weight", table=True)
    for i, spec in enumerate(config.layers):
        ours, theirs = f"layers.{i}", f"transformer.h.{i}"
        assert isinstance(spec.mlp, MLPConfig), spec.mlp
        width, inner = config.hidden_size, spec.mlp.ffn_size
        table |= {
            f"{ours}.attention.qkv": _qkv(f"{theirs}.attn.c_attn.weight", spec, (width,)),
            f"{ours}.attention.qkv_bias": _qkv(f"{theirs}.attn.c_attn.bias", spec, ()),
            f"{ours}.attention.o": View(f"{theirs}.attn.c_proj.weight", (width, width)),
            f"{ours}.mlp.gate_up": View(f"{theirs}.mlp.c_fc.weight", (width, inner)),
            f"{ours}.mlp.down": View(f"{theirs}.mlp.c_proj.weight", (inner, width)),
        }
    return table


def _qkv(name: str, spec: LayerSpec, inputs: tuple[int, ...]) -> Joined:
    """All queries, then all keys, then all values, in the last axis."""
    a = grouped(spec)
    size = a.num_heads * a.head_dim
    parts = tuple(
        View(
            name,
            (*inputs, 3 * size),
            cut=(len(inputs), i * size, (i + 1) * size, 1),
            view=(*inputs, a.num_heads, 1, a.head_dim),
        )
        for i in range(3)
    )
    return Joined(parts, (1, 1, 1), axis=-2)
