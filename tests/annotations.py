"""Run-time checks of the packages' array annotations, switched on by `conftest.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from inspect import isclass
from typing import Any, get_args

import jax
from beartype import beartype
from flax import struct
from jaxtyping import AbstractArray, install_import_hook

CHECKED = (
    "ferrum_jax.attention",
    "ferrum_jax.interfaces",
    "ferrum_jax.kv",
    "ferrum_jax.models",
    "ferrum_jax.research",
    "ferrum_jax.runtime",
    "ferrum_jax.sampler",
    "ferrum_jax.types",
    "pallas_kernels",
)
"""The packages with arrays. A tokenizer takes long where the arguments of every call are bound."""


def check_annotations() -> None:
    """Check arrays' shapes and dtypes in every call of the packages, imported from now on.

    Left out are the constructors of pytrees: jax rebuilds a pytree around whatever it traces, maps
    or donates (tracers, shapes, None), and so its fields hold anything.
    """
    early = [name for name in ("ferrum_jax", *CHECKED) if name in sys.modules]
    if early:
        raise RuntimeError(f"{early} were imported too early: their annotations go unchecked")
    struct.dataclass = _without_checks(struct.dataclass)
    install_import_hook(CHECKED, f"{__name__}.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, checking the arrays it takes and gives; jaxtyping calls this on each one.

    Other types are left to pyright and to the library's own validation, which tests must reach.
    """
    arrays = {name: hint for name, hint in function.__annotations__.items() if _has_array(hint)}
    function.__annotations__ = arrays
    return beartype(function) if arrays else function


def _has_array(hint: Any) -> bool:
    if isclass(hint) and issubclass(hint, jax.Array | AbstractArray):
        return True
    return any(_has_array(part) for part in get_args(hint))


def _without_checks(dataclass: Callable[..., Any]) -> Callable[..., Any]:
    def unchecked(clz: type | None = None, **options: Any) -> Any:
        if clz is None:
            return partial(unchecked, **options)
        made = dataclass(clz, **options)
        made.__no_type_check__ = True
        return made

    return unchecked
