"""Two runs of one sweep: on another device, another version, another model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ferrum_jax.research.sweep.statistics import paired_difference
from ferrum_jax.research.sweep.text import aligned, metric_text, piped, with_error
from ferrum_jax.types import RequestError

if TYPE_CHECKING:
    from ferrum_jax.research.sweep.table import SweepRow, SweepTable


@dataclass(frozen=True)
class RowComparison:
    """What one variant gave in both runs."""

    name: str
    old: float
    new: float
    difference: float
    """new - old; nan where one of them failed"""
    error: float
    """Its standard error; nan for one document."""
    beyond_noise: bool
    """Whether the difference exceeds `sigmas` errors, or only one run failed."""


@dataclass(frozen=True)
class SweepComparison:
    """A sweep against an earlier run of it. `print(comparison)` shows it."""

    title: str
    paired: bool
    """Whether both runs measured the same documents, so that errors are of paired differences."""
    sigmas: float
    rows: tuple[RowComparison, ...]
    missing: tuple[str, ...]
    """Names that only one of them has."""

    @property
    def differing(self) -> tuple[RowComparison, ...]:
        """The rows that differ beyond noise."""
        return tuple(row for row in self.rows if row.beyond_noise)

    def to_text(self) -> str:
        """The rows for a terminal."""
        return "\n".join([self._headline(), "", *aligned(self._cells()), "", *self._tail()])

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        return "\n".join([self._headline(), "", *piped(self._cells()), "", *self._tail()])

    def __str__(self) -> str:
        return self.to_text()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _headline(self) -> str:
        count = len(self.differing)
        verb = "differs" if count == 1 else "differ"
        return f"{self.title}: {count} of {len(self.rows)} rows {verb} beyond noise"

    def _cells(self) -> list[list[str]]:
        head = ["variant", "old", "new", "difference", f"beyond {self.sigmas:g} errors"]
        rows = [
            [
                row.name,
                _number(row.old),
                _number(row.new),
                with_error(row.difference, row.error, "+"),
                "yes" if row.beyond_noise else "",
            ]
            for row in self.rows
        ]
        return [head, *rows]

    def _tail(self) -> list[str]:
        how = "paired by document" if self.paired else "of independent documents"
        lines = [f"± standard error, {how}"]
        if self.missing:
            lines.append(f"in one run only: {', '.join(self.missing)}")
        return lines


def compare_tables(old: SweepTable, new: SweepTable, sigmas: float) -> SweepComparison:
    """See `SweepTable.compare`."""
    if not sigmas > 0:
        raise RequestError(f"sigmas is {sigmas}; it must be above 0")
    if (old.metric, old.unit) != (new.metric, new.unit):
        raise RequestError(
            f"one run measured {metric_text(old)} and the other {metric_text(new)}; compare runs "
            "of one metric"
        )
    found = {row.key: row for row in new.rows}
    pairs = [(row, found[row.key]) for row in old.rows if row.key in found]
    if not pairs:
        raise RequestError("no variant is in both runs; compare runs that name the same ones")
    paired = old.definition == new.definition
    keys = {a.key for a, _ in pairs}
    return SweepComparison(
        title=metric_text(old),
        paired=paired,
        sigmas=sigmas,
        rows=tuple(_compare(a, b, paired, sigmas) for a, b in pairs),
        missing=_missing([*old.rows, *new.rows], keys),
    )


def _compare(old: SweepRow, new: SweepRow, paired: bool, sigmas: float) -> RowComparison:
    if old.values is None or new.values is None:
        one_failed = (old.values is None) != (new.values is None)
        return RowComparison(new.name, old.value, new.value, math.nan, math.nan, one_failed)
    if paired:
        difference, error = paired_difference(new.values, old.values)
    else:
        difference, error = new.value - old.value, math.hypot(old.error, new.error)
    beyond = abs(difference) > sigmas * error
    return RowComparison(new.name, old.value, new.value, difference, error, beyond)


def _missing(rows: Sequence[SweepRow], common: set) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.name for row in rows if row.key not in common))


def _number(value: float) -> str:
    return "failed" if math.isnan(value) else f"{value:.5g}"
