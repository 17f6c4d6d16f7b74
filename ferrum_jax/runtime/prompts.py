"""Prompts as callers write them, and values given once for all of them or once for each."""

from __future__ import annotations

from collections.abc import Sequence
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


def prompt_text(prompt: Prompt) -> str | None:
    """The prompt where it is a text."""
    return prompt if isinstance(prompt, str) else None
