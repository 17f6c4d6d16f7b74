"""From what a user names, a path or a Hugging Face id, to a directory on disk."""

from __future__ import annotations

import re
from pathlib import Path

from ferrum_jax.types.errors import ModelError

# Weights, configs, tokenizers and templates: never code, never pickles.
ALLOW_PATTERNS = (
    "*.safetensors",
    "*.json",
    "tokenizer.model",
    "spiece.model",
    "tiktoken.model",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
)
# Folders, and files of this name, hold the same weights in other formats, as large again; all but
# the folder 1_Pooling of sentence-transformers, which has a config.json.
IGNORE_PATTERNS = (
    "[!1]*/*",
    "1/*",
    "1[!_]*/*",
    "1_*/*/*",
    "1_*/*.safetensors",
    "consolidated*.safetensors",
)

_HUB_ID = re.compile(
    r"(?!.*\.\.)(?P<repo>\w[\w.-]*/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?", re.ASCII
)


def resolve_checkpoint(path_or_hub_id: str | Path) -> Path:
    """The directory of a checkpoint: an existing one as it stands, or a download from the hub.

    A hub id is `org/name` or `org/name@revision`; a local directory of that name goes first.
    The download is cached by huggingface_hub, and HF_HUB_OFFLINE keeps it to that cache.
    Raises ModelError, naming what was tried, when neither leads to a directory.
    """
    if not isinstance(path_or_hub_id, str | Path) or not str(path_or_hub_id).strip():
        raise ModelError(
            f"a checkpoint is named by a directory or a hub id, not {path_or_hub_id!r}"
        )
    path = _expand(path_or_hub_id)
    if path.is_dir():
        return path
    hub_id = None if isinstance(path_or_hub_id, Path) else _HUB_ID.fullmatch(path_or_hub_id)
    if hub_id is None or path.exists():
        raise ModelError(_not_found(path_or_hub_id, path))
    return _download(hub_id["repo"], hub_id["revision"])


def _expand(path_or_hub_id: str | Path) -> Path:
    try:
        return Path(path_or_hub_id).expanduser()
    except RuntimeError:  # `~name` for a user who does not exist: an ordinary missing path
        return Path(path_or_hub_id)


def _not_found(given: str | Path, path: Path) -> str:
    if path.suffix == ".gguf" and path.exists():
        return f"{path} is a GGUF file; fj.from_gguf(file, directory) writes it as a directory"
    if path.exists():
        return f"{path} is a file; give the directory that holds config.json and the weights"
    absolute = path.absolute()
    closest = next((p for p in absolute.parents if p.exists()), absolute.anchor)
    return (
        f"no such directory and not a hub id: {str(given)!r} (the closest directory that exists "
        f"is {closest}); a hub id is 'org/name' or 'org/name@revision'"
    )


def _download(repo: str, revision: str | None) -> Path:
    import huggingface_hub  # a third of a second, and only hub ids need it

    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(ALLOW_PATTERNS),
            ignore_patterns=list(IGNORE_PATTERNS),
        )
    except Exception as error:
        # Every release of the client brings other exception classes of other HTTP libraries;
        # whichever it is, the download failed, and its own words follow.
        asked = f"{repo!r} at revision {revision or 'main'!r}"
        raise ModelError(
            f"no such directory and no download of {asked} from the Hugging Face hub: "
            f"{_remedy(error)}. {type(error).__name__}: {_first_line(error)}"
        ) from error
    return Path(folder)


def _remedy(error: Exception) -> str:
    from huggingface_hub import errors

    # In order: the gated repository is a kind of repository not found.
    remedies = {
        errors.HFValidationError: "it is not a valid id; check its spelling",
        errors.GatedRepoError: "access is gated; accept its terms on the hub and set HF_TOKEN",
        errors.RepositoryNotFoundError: "no such repository; check its spelling, and set "
        "HF_TOKEN if it is private",
        errors.RevisionNotFoundError: "no such revision; give a branch, tag or commit that exists",
        errors.LocalEntryNotFoundError: "the hub is out of reach (or HF_HUB_OFFLINE is set) and "
        "the local cache lacks it; download it once while online, or give a directory",
    }
    matches = (text for kind, text in remedies.items() if isinstance(error, kind))
    return next(matches, "check the network and the free disk space, or give a directory")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
