"""Prompts as callers write them, and values given once for all of them or once for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from ferrum_jax.types import RequestError

Prompt = str | Sequence[int]


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts from one or several; a list of integers is one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    listed: list[Any] = list(prompts)
    if listed and all(isinstance(x, int | np.integer) for x in listed):
        return [listed]
    for prompt in listed:
        if not isinstance(prompt, str) and not hasattr(prompt, "__iter__"):
            raise RequestError(f"a prompt is {prompt!r}; give a text or a list of token ids")
    return listed


def per_prompt(name: str, value: Any, count: int) -> list[Any]:
    """`count` values: the one given for all, or those given for each.

    Raises:
        RequestError: a list or tuple of another length.
    """
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"{len(value)} {name} for {count} prompts; give one or as many")
    return list(value)


def taps_per_prompt(taps: Any, prompts: Iterable[Any]) -> Iterable[Any]:
    """One taps for each prompt: the one given for all, again and again, or those of a list.

    Raises:
        RequestError: a list of another length, or a list for prompts that are not counted.
    """
    if not isinstance(taps, list | tuple):
        return repeat(taps)
    if not isinstance(prompts, list):
        raise RequestError("a list of taps needs a list of prompts; give one taps for all")
    return per_prompt("taps", taps, len(prompts))


def prompt_text(prompt: Prompt) -> str | None:
    """The prompt where it is a text."""
    return prompt if isinstance(prompt, str) else None
