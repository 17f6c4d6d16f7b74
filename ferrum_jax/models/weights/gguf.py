"""GGUF files, llama.cpp's, as a config.json and tensors of the names that Hugging Face uses.

Tensors of every type that the `gguf` package dequantises are read. Of Llama the rows of q and k lie
in another order (the halves of each head interleaved, for llama.cpp's rope); here they are put
back. Facts of the format: ggml's `docs/gguf.md` and the names in `gguf.constants`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ferrum_jax.models.weights.files import listed
from ferrum_jax.types import ConfigError, DataType, UnsupportedError, WeightError

ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
"""Of a file: `model_type` and class of config.json."""
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's: what the frequencies of its rope are divided by."""
SHARD_BYTES = 4 * 2**30
_TENSOR = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")


class GgufFile:
    """A GGUF file's values and tensors."""

    def __init__(self, path: str | Path) -> None:
        """Raises:
        UnsupportedError: the `gguf` package is not installed, or the file is part of several.
        WeightError: there is no such file, or it is no GGUF file.
        """
        if find_spec("gguf") is None:
            raise UnsupportedError(
                "GGUF files need the gguf package; install it with pip install 'ferrum-jax[gguf]'"
            )
        from gguf import GGUFReader

        self.path = Path(path)
        if not self.path.is_file():
            raise WeightError(f"{self.path} is no file; give a .gguf file")
        try:
            reader = GGUFReader(self.path)
        except Exception as error:  # bare ones of numpy and struct, as the damage is
            raise WeightError(f"{self.path} is no GGUF file that can be read: {error}") from error
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        if self.value("split.count", 1) > 1:
            raise UnsupportedError(
                f"{self.path} is one part of several; join them with llama.cpp's "
                "`llama-gguf-split --merge`"
            )

    def value(self, key: str, default: Any = None) -> Any:
        """A value of the header: a number, text, truth or list of those."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def needs(self, key: str) -> Any:
        """A value of the header that there has to be."""
        found = self.value(key)
        if found is None:
            raise ConfigError(f"{self.path}: the header has no {key}")
        return found

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32."""
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        try:
            return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise UnsupportedError(f"{self.path}: {name} is {kind}, which is not read") from error


def config_of(file: GgufFile) -> dict[str, Any]:
    """The config.json of a file's model.

    Raises:
        UnsupportedError: an architecture, experts or a rope that is not read.
        ConfigError: a value is missing.
    """
    arch = file.needs("general.architecture")
    if arch not in ARCHITECTURES or file.value(f"{arch}.expert_count"):
        what = f"{arch} with experts" if arch in ARCHITECTURES else arch
        raise UnsupportedError(
            f"{file.path}: the architecture is {what!r}; of GGUF files "
            f"{', '.join(ARCHITECTURES)} without experts are read. Give the model's Hugging Face "
            "checkpoint"
        )
    model_type, name = ARCHITECTURES[arch]
    heads = file.needs(f"{arch}.attention.head_count")
    width = file.needs(f"{arch}.embedding_length")
    names = set(file.names())
    config = {
        "architectures": [name],
        "model_type": model_type,
        "hidden_size": width,
        "intermediate_size": file.needs(f"{arch}.feed_forward_length"),
        "num_hidden_layers": file.needs(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.value(f"{arch}.attention.head_count_kv", heads),
        "head_dim": file.value(f"{arch}.attention.key_length", width // heads),
        "hidden_act": "silu",
        "rms_norm_eps": file.needs(f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.value(f"{arch}.rope.freq_base", 10000.0),
        "max_position_embeddings": file.needs(f"{arch}.context_length"),
        "vocab_size": len(file.needs("tokenizer.ggml.tokens")),
        "tie_word_embeddings": "output.weight" not in names,
    }
    if model_type != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in names
    if (scaling := _rope_scaling(file, arch, config)) is not None:
        config["rope_scaling"] = scaling
    for key in ("bos", "eos"):
        if (token := file.value(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{key}_token_id"] = token
    return config


def tensors_of(file: GgufFile, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by Hugging Face's name, in float32, read one by one.

    Raises:
        WeightError: tensors whose names are not known, before any is read.
    """
    names = {stored: _name(stored) for stored in file.names() if stored != ROPE_FACTORS}
    if unknown := {stored for stored, name in names.items() if name is None}:
        raise WeightError(f"{file.path} holds tensors that are not known: {listed(unknown)}")
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for stored, name in names.items():
        assert name is not None
        tensor, layer = file.read(stored), name.split(".")[-2]
        if config["model_type"] == "llama" and layer in heads:
            count = heads[layer]
            pairs = tensor.reshape(count, tensor.shape[0] // count // 2, 2, -1)
            tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
        yield name, tensor


def write_checkpoint(file: GgufFile, directory: Path, dtype: str, *, progress: bool) -> None:
    """Write config.json and the tensors: safetensors of about 4 GiB each, with their index."""
    from safetensors.numpy import save_file

    kind = jnp.dtype(DataType.parse(dtype).value)
    config = config_of(file)
    found = tensors_of(file, config)
    held: dict[str, np.ndarray] = {}
    weight_map: dict[str, str] = {}

    def flush() -> None:
        name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_file(held, directory / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(held, name))
        held.clear()

    for name, tensor in tqdm(found, total=len(file.names()), unit="tensor", disable=not progress):
        held[name] = np.ascontiguousarray(tensor.astype(kind))
        if sum(each.nbytes for each in held.values()) >= SHARD_BYTES:
            flush()
    if held:
        flush()
    _write(directory / "model.safetensors.index.json", {"weight_map": weight_map})
    _write(directory / "config.json", config | {"dtype": dtype})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _name(stored: str) -> str | None:
    """Hugging Face's name of a tensor; None: it is not known."""
    base, _, kind = stored.rpartition(".")
    if base in NAMES and kind == "weight":
        return f"{NAMES[base]}.weight"
    match = _TENSOR.fullmatch(stored)
    if match is None or match[2] not in LAYER_NAMES:
        return None
    return f"model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.{match[3]}"


def _rope_scaling(file: GgufFile, arch: str, config: dict[str, Any]) -> dict[str, Any] | None:
    if ROPE_FACTORS in file.names():
        return _llama3(file, config)
    kind = file.value(f"{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = file.needs(f"{arch}.rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = file.needs(f"{arch}.rope.scaling.original_context_length")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise UnsupportedError(f"{file.path}: rope.scaling.type {kind!r} is not read")


def _llama3(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """The settings that Llama 3's factors were made with; the file has the factors alone."""
    stored = file.read(ROPE_FACTORS)
    low, high, original = 1.0, 4.0, 8192
    factor = float(stored.max())
    turns = np.arange(0, 2 * len(stored), 2) / (2 * len(stored))
    waves = 2 * math.pi * config["rope_theta"] ** turns
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(stored, expected, rtol=1e-4):
        raise UnsupportedError(
            f"{file.path}: {ROPE_FACTORS} is not of Llama 3's rope as published (low and high "
            f"frequency factors {low} and {high}, {original} positions); give the model's Hugging "
            "Face checkpoint"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
