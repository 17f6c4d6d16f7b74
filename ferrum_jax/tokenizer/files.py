"""The small JSON files beside a tokenizer: special tokens, added tokens, chat templates.

Layout as `transformers` writes it: tokenizer_config.json, special_tokens_map.json,
added_tokens.json, generation_config.json, config.json, chat_template.jinja and
additional_chat_templates/*.jinja. All are optional; one that is there must be whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferrum_jax.types.errors import TokenizerError

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class AddedToken:
    """A token beside the trained vocabulary, with how it is found in a text."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files beside a tokenizer say.

    `named` maps bos_token and so on to the token's text; a name that a file sets to null maps to
    None, a name that no file has is absent.
    """

    config: Mapping[str, Any]
    named: Mapping[str, str | None]
    extra_special: tuple[str, ...]
    added: Mapping[int, AddedToken]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    templates: Mapping[str, str]
    model_type: str | None = None


def read_files(directory: Path) -> TokenizerFiles:
    """Read the files beside a tokenizer; raises TokenizerError for a damaged one."""
    config = _read_object(directory / "tokenizer_config.json")
    mapped = _read_object(directory / "special_tokens_map.json")
    # The older files say more than a tokenizer_config.json that lists no added tokens itself.
    older = "added_tokens_decoder" not in config
    special = {**config, **mapped} if older else {**mapped, **config}
    named = {name: _content(special[name]) for name in SPECIAL_NAMES if name in special}
    extra_special = _extra_special(special)
    model = _read_object(directory / "config.json")
    generation = _read_object(directory / "generation_config.json")
    bos = _ids(generation, "bos_token_id") or _ids(model, "bos_token_id")
    eos = _ids(generation, "eos_token_id") or _ids(model, "eos_token_id")
    return TokenizerFiles(
        config=config,
        named=named,
        extra_special=extra_special,
        added=_added(directory, config, {*named.values(), *extra_special}),
        bos_id=bos[0] if bos else None,
        eos_ids=eos,
        templates=_templates(directory, config),
        model_type=model.get("model_type"),
    )


def read_bytes(path: Path, what: str) -> bytes:
    """The bytes of a regular, non-empty file; raises TokenizerError otherwise."""
    if not path.is_file():
        raise TokenizerError(f"{path} is not a regular file; {what} is needed")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error
    if not data:
        raise TokenizerError(f"{path} is empty; download {what} again")
    if data.startswith(b"version https://git-lfs"):
        raise TokenizerError(
            f"{path} is a Git LFS pointer, not {what}; fetch it with `git lfs pull`"
        )
    return data


def _read_text(path: Path, what: str) -> str:
    try:
        return read_bytes(path, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 ({error}); download it again") from error


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(_read_text(path, "a JSON object"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise TokenizerError(f"{path} holds a JSON {kind}, not an object; download it again")
    return value


def _content(token: Any) -> str | None:
    """The text of a token, written as a string or as an AddedToken object."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise TokenizerError(f"a special token is {token!r}; it must be a text")
    return token


def _extra_special(special: Mapping[str, Any]) -> tuple[str, ...]:
    """Special tokens without a name of their own, in every spelling of the key."""
    extra: list[Any] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = special.get(key) or []
        extra += value.values() if isinstance(value, dict) else value
    return tuple(content for content in map(_content, extra) if content)


def _added(
    directory: Path, config: Mapping[str, Any], special: set[str | None]
) -> dict[int, AddedToken]:
    added = {}
    for content, token_id in _read_object(directory / "added_tokens.json").items():
        is_special = content in special
        token = AddedToken(content, special=is_special, normalized=not is_special)
        added[_id(token_id, "added_tokens.json")] = token
    for token_id, fields in (config.get("added_tokens_decoder") or {}).items():
        added[_id(token_id, "added_tokens_decoder")] = _added_token(fields)
    return added


def _added_token(fields: Any) -> AddedToken:
    content = _content(fields)
    if not content:
        raise TokenizerError(f"tokenizer_config.json: added token {fields!r} has no content")
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(content, **{flag: bool(fields[flag]) for flag in flags if flag in fields})


def _id(value: Any, source: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise TokenizerError(f"{source}: the token id {value!r} must be an integer >= 0")
    return number


def _ids(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """One id, a list of ids, or none, as config.json and generation_config.json write them."""
    value = config.get(key)
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    return tuple(_id(item, key) for item in values)


def _templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; files of their own go before tokenizer_config.json."""
    path = directory / "tokenizer_config.json"
    templates = _named_templates(config.get("chat_template"), path)
    single = directory / "chat_template.jinja"
    if single.exists():
        templates["default"] = _read_text(single, "a chat template")
    for file in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        templates[file.stem] = _read_text(file, "a chat template")
    return templates


def _named_templates(value: Any, path: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        templates = {entry["name"]: entry["template"] for entry in value}
    except (KeyError, TypeError) as error:
        raise TokenizerError(f"{path}: chat_template is neither a text nor a list") from error
    if not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise TokenizerError(f"{path}: a chat template and its name must be texts")
    return templates
