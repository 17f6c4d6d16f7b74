"""How a directory of sentence-transformers says that its texts are to be embedded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferrum_jax.models.weights.files import MAX_JSON_BYTES, open_regular, read_json
from ferrum_jax.types import ConfigError

MODULES = "modules.json"
MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
}
"""Poolings by the names that sentence-transformers gives them."""


@dataclass(frozen=True)
class EmbeddingDefaults:
    """What `LLM.embed` does unless told otherwise."""

    pooling: str = "last"
    normalize: bool = False
    unsupported: str = ""
    """What the directory asks for that `embed` does not do; then a pooling has to be named."""


def embedding_defaults(directory: Path) -> EmbeddingDefaults:
    """Those of the directory's modules.json; without one, the last token's state as it is.

    Raises:
        ConfigError: a file cannot be read, or is of another form.
    """
    if not (directory / MODULES).exists():
        return EmbeddingDefaults()
    kinds = _modules(directory)
    names = [kind for kind, _ in kinds]
    poolings = [path for kind, path in kinds if kind == "Pooling"]
    others = [name for name in names if name not in ("Transformer", "Pooling", "Normalize")]
    if others:
        return EmbeddingDefaults(unsupported=f"the modules {', '.join(others)}")
    if len(poolings) != 1 or "Normalize" in names[: names.index("Pooling")]:
        return EmbeddingDefaults(unsupported=f"the modules {', '.join(names)}, in this order")
    if not (directory / poolings[0] / "config.json").exists():
        return EmbeddingDefaults(unsupported=f"{poolings[0]}/config.json, which is not there")
    config = read_json(directory / poolings[0], "config.json")
    modes = _modes(config)
    if len(modes) != 1 or modes[0] not in MODES:
        return EmbeddingDefaults(unsupported=f"the pooling {' with '.join(modes) or 'of nothing'}")
    return EmbeddingDefaults(MODES[modes[0]], "Normalize" in names)


def _modules(directory: Path) -> list[tuple[str, str]]:
    """The modules' kinds and folders, in their order."""
    try:
        with open_regular(directory / MODULES) as file:
            listed = json.loads(file.read(MAX_JSON_BYTES))
        found = sorted(
            (int(m["idx"]), str(m["type"]).rpartition(".")[2], str(m["path"])) for m in listed
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{directory / MODULES} is no list of modules with idx, path and type "
            f"({type(error).__name__}: {error}); mend it, or remove it to embed without it"
        ) from error
    for _, _, path in found:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ConfigError(
                f"{directory / MODULES} names the folder {path!r}, which is outside the directory"
            )
    return [(kind, path) for _, kind, path in found]


def _modes(config: dict[str, Any]) -> list[str]:
    """The poolings that are set; several are joined end to end."""
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return [named]
    if isinstance(named, list):
        return [str(name) for name in named]
    flag = "pooling_mode_"
    return [k.removeprefix(flag) for k, v in config.items() if k.startswith(flag) and v is True]
