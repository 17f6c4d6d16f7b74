"""Checks that the parameters of a request share."""

from __future__ import annotations

import math
from numbers import Integral, Real

from ferrum_jax.types.errors import RequestError


def as_integer(value: object) -> int | None:
    """The value as an int; None if it is not an integer."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def as_finite(value: object) -> float | None:
    """The value as a float; None if it is not a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def checked_integer(name: str, value: object, low: int, high: int) -> int:
    """The value as an int of the range.

    Raises:
        RequestError: it is none.
    """
    number = as_integer(value)
    if number is None or not low <= number <= high:
        raise RequestError(f"{name} is {show(value)}; it must be an integer {low} to {high}")
    return number


def checked_number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False
) -> float:
    """The value as a float of the range; `open_low` leaves its lower end out.

    Raises:
        RequestError: it is none.
    """
    number = as_finite(value)
    if number is None or not low <= number <= high or (open_low and number == low):
        bounds = f"above {low:g} and at most" if open_low else f"from {low:g} to"
        raise RequestError(f"{name} is {show(value)}; it must be a finite number {bounds} {high:g}")
    return number


def checked_token_id(name: str, value: object) -> int:
    """The value as a token id of some vocabulary.

    Raises:
        RequestError: it is none.
    """
    token = as_integer(value)
    if token is None or not 0 <= token < 2**31:
        raise RequestError(
            f"{name} holds {show(value)}; token ids are integers from 0 to {2**31 - 1}"
        )
    return token


def show(value: object) -> str:
    """The value as an error message names it: short, whatever was passed."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"{type(value).__name__} too long to print"
    return text if len(text) <= 80 else f"{text[:77]}..."
