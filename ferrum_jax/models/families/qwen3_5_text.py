"""The text model of Qwen 3.5 (2026): Qwen 3 Next's mixers, laid out plainly, with dense blocks."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.mamba2 import only_silu
from ferrum_jax.models.families.qwen3_next import delta_model, delta_names, read_mixers
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Linear, Source
from ferrum_jax.types import GatedDeltaConfig, MLPConfig, ModelConfig

_IGNORED = (
    "mamba_ssm_dtype",
    "mlp_only_layers",
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: qwen3_5_text`.

    Raises:
        UnsupportedError: attention without its output gate, or with biases.
    """
    reader.ignore(*_IGNORED)
    reader.must_be("attn_output_gate", True)
    mlp = MLPConfig(reader.size("intermediate_size", 12_288), only_silu(reader, "hidden_act"))
    return delta_model(reader, [replace(spec, mlp=mlp) for spec in read_mixers(reader)])


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return delta_names(config, _delta_names)


def _delta_names(here: str, delta: GatedDeltaConfig, width: int) -> dict[str, Source]:
    stored = {"qkv": "qkv", "gate": "z", "beta": "b", "decay": "a"}
    return {ours: Linear(f"{here}.in_proj_{theirs}.weight") for ours, theirs in stored.items()}
