"""The checkpoint that all engines read: Hugging Face's layout, and from it llama.cpp's files.

`python checkpoint.py HF_DIRECTORY DTYPE FILE`, run in the peers' environment, writes one of those.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from config import Plan


def write(plan: Plan, directory: Path) -> None:
    """config.json and model.safetensors, float32, uniform with deviation 1 / sqrt(fan_in)."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(_config(plan)))
    rng = np.random.default_rng(plan.seed)
    tensors = {name: _tensor(rng, shape) for name, shape in _shapes(plan).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _config(plan: Plan) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": plan.hidden,
        "num_hidden_layers": plan.layers,
        "num_attention_heads": plan.heads,
        "num_key_value_heads": plan.kv_heads,
        "head_dim": plan.head_dim,
        "intermediate_size": plan.ffn,
        "vocab_size": plan.vocab,
        "max_position_embeddings": plan.max_positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    wide, narrow = plan.heads * plan.head_dim, plan.kv_heads * plan.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (plan.vocab, plan.hidden)}
    for i in range(plan.layers):
        layer = {
            "input_layernorm": (plan.hidden,),
            "self_attn.q_proj": (wide, plan.hidden),
            "self_attn.k_proj": (narrow, plan.hidden),
            "self_attn.v_proj": (narrow, plan.hidden),
            "self_attn.o_proj": (plan.hidden, wide),
            "post_attention_layernorm": (plan.hidden,),
            "mlp.gate_proj": (plan.ffn, plan.hidden),
            "mlp.up_proj": (plan.ffn, plan.hidden),
            "mlp.down_proj": (plan.hidden, plan.ffn),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (plan.hidden,)}


def _tensor(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    uniform = rng.random(shape, dtype=np.float32)
    if len(shape) == 1:
        return uniform + np.float32(0.5)
    return (uniform - np.float32(0.5)) * np.float32(np.sqrt(12 / shape[-1]))


GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_TYPES = {"float32": "F32", "bfloat16": "BF16", "q8_0": "Q8_0"}


def write_gguf(directory: Path, dtype: str, file: Path) -> None:
    """llama.cpp's file of a Hugging Face directory; norms stay float32."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    kind = gguf.GGMLQuantizationType[GGUF_TYPES[dtype]]
    for name, value in load_file(directory / "model.safetensors").items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        for part, key in heads.items():
            if part in name:
                value = _interleaved(value, config[key])
        if value.ndim == 1:
            writer.add_tensor(_gguf_name(name), value)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


def _interleaved(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a projection in the order of llama.cpp's rope, which turns neighbours."""
    halves = value.reshape(heads, 2, -1, value.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
