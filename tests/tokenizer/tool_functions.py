"""Python functions as tools, of every kind of type hint. Their schemas are golden."""

from __future__ import annotations

import enum
from typing import Any, Literal


class Unit(enum.Enum):
    """Degrees."""

    CELSIUS = "celsius"
    KELVIN = "kelvin"


def get_weather(city: str, unit: Unit = Unit.CELSIUS, days: int | None = None) -> dict[str, float]:
    """Look up the weather.

    Works for every city.

    Args:
        city: The city, with
            its country.
        unit (Unit): The unit of the temperatures.
        days: How many days.

    Returns:
        Temperatures by day.

    Raises:
        ValueError: no such city.
    """
    raise NotImplementedError


def mix(
    names: list[str],
    pair: tuple[int, str],
    table: dict[str, list[float]],
    either: int | str,
    anything: Any,
    choice: Literal["a", 1, None],
    nested: list[int] | dict[str, int] | None = None,
    drink: str = "tea",
):
    """Take one of everything

    Args:
        names: Some names
        pair: A pair: two things
        table: A table
        either: A number or a text
        anything: Anything at all
        choice: One of three
        nested: Nested things
        drink: What to drink (choices: ["tea", "coffee"])
    """
    raise NotImplementedError


class Clock:
    """A clock whose method is a tool."""

    def now(self) -> str:
        """Tell the time."""
        raise NotImplementedError


FUNCTIONS = [get_weather, mix, Clock().now]
