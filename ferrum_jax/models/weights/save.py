"""Writing parameters as an ordinary Hugging Face weight file."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from ferrum_jax.models.families import family_of
from ferrum_jax.models.params import Params
from ferrum_jax.models.shapes import check_params, path_name
from ferrum_jax.models.weights.sources import put
from ferrum_jax.types import DataType, ModelConfig


def save_weights(
    config: ModelConfig, params: Params, directory: Path, dtype: str = "float32"
) -> Path:
    """Write `model.safetensors` with the names of the config's family; returns its path.

    Raises:
        ModelError: the parameters do not fit the config.
        ConfigError: `dtype` is not one of weights.
    """
    from safetensors.numpy import save_file

    check_params(config, params)
    table = family_of(config.model_type, str(directory)).names(config)
    kind = jax.numpy.dtype(DataType.parse(dtype).value)
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        value = np.asarray(leaf).astype(kind)
        entry = table[path_name(path)]
        for index, name in enumerate(entry.names):
            shape = entry.stored_shape(value.shape, index)
            put(entry, tensors.setdefault(name, np.zeros(shape, kind)), value, index)
    file = Path(directory) / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    return file
