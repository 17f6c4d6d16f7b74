"""Write the trained model as an ordinary Hugging Face directory into the package."""

import json
import shutil
from pathlib import Path

import optax
from config import MODEL, Training
from corpus import WORK
from train import CHECKPOINT, load, make_optimizer

from ferrum_jax.models import Params, init_params
from ferrum_jax.models.weights.save import save_weights
from ferrum_jax.runtime.llm import DEMO_MODEL

LIMIT = 12_000_000
"""Bytes that the directory may take in the package."""


def hugging_face_config() -> dict:
    """`config.json` of the demo model, in the spelling that transformers writes and reads."""
    spec = MODEL.layers[0]
    assert spec.attention.rope is not None
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": MODEL.vocab_size,
        "hidden_size": MODEL.hidden_size,
        "intermediate_size": spec.mlp.ffn_size,
        "num_hidden_layers": MODEL.num_layers,
        "num_attention_heads": spec.attention.num_heads,
        "num_key_value_heads": spec.attention.num_kv_heads,
        "head_dim": spec.attention.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": MODEL.max_positions,
        "rms_norm_eps": MODEL.norm_eps,
        "rope_theta": spec.attention.rope.theta,
        "tie_word_embeddings": MODEL.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }


def trained_params(run: Training) -> tuple[int, Params]:
    """The checkpoint's step and parameters."""
    params = init_params(MODEL, seed=run.seed)
    optimizer: optax.GradientTransformation = make_optimizer(run)
    step, params, _ = load(CHECKPOINT, params, optimizer.init(params))
    return step, params


def export(params: Params, directory: Path = DEMO_MODEL) -> int:
    """Write config, bf16 weights and tokenizer; returns the directory's bytes.

    Raises:
        ValueError: the directory is larger than what the package may hold.
    """
    directory.mkdir(exist_ok=True)
    for file in (WORK / "model").iterdir():
        shutil.copy(file, directory)
    (directory / "config.json").write_text(json.dumps(hugging_face_config(), indent=2) + "\n")
    save_weights(MODEL, params, directory, dtype="bfloat16")
    size = sum(file.stat().st_size for file in directory.iterdir())
    if size > LIMIT:
        raise ValueError(f"the model takes {size:,} bytes; the package holds {LIMIT:,}")
    return size
