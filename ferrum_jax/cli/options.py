"""Options that several commands share, and what they stand for. Importing this loads no jax."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.types import EngineConfig


class UsageError(Exception):
    """The command line is wrong in a way that argparse does not see."""


def add_model_options(parser: argparse.ArgumentParser, *, default: str | None = "demo") -> None:
    """`--model`, `--dtype` and `--engine`."""
    parser.add_argument(
        "--model",
        default=default,
        metavar="MODEL",
        help="a Hugging Face directory, a hub id, or demo: the model in the package (the default)",
    )
    add_engine_options(parser)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """`--dtype` and `--engine`."""
    parser.add_argument("--dtype", default="float32", help="of the weights (default: %(default)s)")
    parser.add_argument(
        "--engine",
        type=key_values,
        action=_Added,
        default={},
        metavar="KEY=VALUE,...",
        help="fields of EngineConfig, as in page_size=16,max_num_seqs=8; again for more",
    )


class _Added(argparse.Action):
    """The dicts of all times that an option is given, as one; the last one's value counts."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **values})


def key_values(text: str) -> dict[str, Any]:
    """`a=1,b=lru` as a dict; values that are no Python literals stay text."""
    pairs: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise argparse.ArgumentTypeError(f"{part!r} is not of the form key=value")
        pairs[key.strip()] = literal(value.strip())
    return pairs


def literal(text: str) -> Any:
    """A Python literal, or else the text; True, False and None in any case."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def given_options(
    args: argparse.Namespace, options: Iterable[tuple[str, Any, str]]
) -> dict[str, Any]:
    """The values of those options, as (name, type, help), that the command line names."""
    values = {name: getattr(args, name) for name, *_ in options}
    return {name: value for name, value in values.items() if value is not None}


def engine_config(chosen: Mapping[str, Any], **defaults: Any) -> EngineConfig:
    """An `EngineConfig` of what was chosen, and of `defaults` where nothing was.

    Raises:
        ConfigError: a key that is no field, or a value out of its range.
    """
    from dataclasses import fields
    from difflib import get_close_matches

    from ferrum_jax.types import ConfigError, EngineConfig

    known = [field.name for field in fields(EngineConfig)]
    for key in chosen:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise ConfigError(f"--engine: EngineConfig has no field {key!r}; {hint}")
    return EngineConfig(**{**defaults, **chosen})


def load_llm(args: argparse.Namespace, **engine_defaults: Any) -> LLM:
    """The model that the options name; a bar shows large ones loading."""
    from ferrum_jax.runtime.llm import LLM

    config = engine_config(args.engine, **engine_defaults)
    show = args.model != "demo" and sys.stderr.isatty()
    return LLM.load(args.model, args.dtype, engine=config, progress=show)


def read_texts(given: list[str], files: list[Path]) -> list[str]:
    """Texts of the command line, `-` for stdin, then those of files.

    Raises:
        UsageError: there is none, or a file cannot be read.
    """
    texts = [sys.stdin.read() if text == "-" else text for text in given]
    for path in files:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {error}") from error
    if not texts:
        raise UsageError("no text given; name one, a file, or - for stdin")
    return texts


def positive(text: str) -> int:
    """An integer from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1")
    return int(text)
