"""What a sweep found: a row per variant, and what all rows share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ferrum_jax.research.sweep.axes import Key
from ferrum_jax.research.sweep.statistics import DocumentValues, paired_difference
from ferrum_jax.runtime.record import read_record, to_json, write_json
from ferrum_jax.types import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.research.sweep.compare import SweepComparison

FORMAT = "ferrum_jax sweep 1"


@dataclass(frozen=True)
class SweepRow:
    """One variant: its value, and what it differs by from the baseline's, with standard errors."""

    key: Key
    """The name, or its place on a grid's axes."""
    name: str
    variant: str
    """What changes, in words."""
    fingerprint: str = field(repr=False)
    """Of the model, its settings and its edits: a row of another one is measured anew."""
    run: int
    """Which of `SweepTable.runs` measured it."""
    seconds: float
    """Wall time; of its share, where variants ran as one batch."""
    values: DocumentValues | None = field(default=None, repr=False)
    """The metric by document; None after a failure."""
    failure: str | None = None
    """The message of the `FerrumError` that the variant ended with; its figures are nan."""
    difference: float = math.nan
    """Value minus the baseline's, over the same documents."""
    difference_error: float = math.nan
    """Standard error of the paired difference."""

    @property
    def value(self) -> float:
        """The metric over all documents."""
        return math.nan if self.values is None else self.values.value

    @property
    def error(self) -> float:
        """Standard error of the value, over documents; nan for one document."""
        return math.nan if self.values is None else self.values.error

    @property
    def num_documents(self) -> int:
        """How many values went into it."""
        return 0 if self.values is None else len(self.values.sums)

    @property
    def num_tokens(self) -> int | None:
        """Tokens that were scored; None where the metric does not tell."""
        return None if self.values is None else self.values.num_tokens

    def record(self) -> dict[str, Any]:
        """The row as plain data, its figures first."""
        figures = ("value", "error", "num_documents", "num_tokens")
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        head = {name: kept.pop(name) for name in ("key", "name", "variant")}
        return head | {name: getattr(self, name) for name in figures} | kept


@dataclass(frozen=True)
class SweepTable:
    """The rows of a sweep, the baseline first. `print(table)` shows them."""

    metric: str
    unit: str
    definition: str
    """Fingerprint of the metric and its documents."""
    weights: str
    """sha256 of the weights of the model that was swept (`weights_digest`)."""
    seed: int | None
    rows: tuple[SweepRow, ...]
    axes: dict[str, Key] = field(default_factory=dict)
    """Names and values of a grid's axes; empty if it was none."""
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    """The `ModelConfig` of the model that was swept, as plain data."""
    engine: dict[str, Any] = field(default_factory=dict, repr=False)
    """Its `EngineConfig`, likewise."""
    runs: tuple[dict[str, Any], ...] = ()
    """Versions, device, machine, command and commit of every run that measured rows."""

    @property
    def baseline(self) -> SweepRow:
        """The unchanged model."""
        return self.rows[0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> SweepRow:
        """The row of a name, or of a place on a grid's axes.

        Raises:
            RequestError: there is none.
        """
        wanted = key if isinstance(key, tuple) else (key,)
        for row in self.rows:
            if row.key == wanted:
                return row
        names = ", ".join(row.name for row in self.rows[:20])
        raise RequestError(f"there is no row {key!r}; the rows are {names}")

    def to_text(self) -> str:
        """The table for a terminal; for a grid of two axes its differences by row and column."""
        from ferrum_jax.research.sweep.text import as_text

        return as_text(self)

    def to_markdown(self) -> str:
        """The same table in Markdown."""
        from ferrum_jax.research.sweep.text import as_markdown

        return as_markdown(self)

    def record(self) -> dict[str, Any]:
        """Everything as plain data."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return {"format": FORMAT, **shared, "rows": [row.record() for row in self.rows]}

    def to_json(self) -> str:
        """Strict JSON; nan is null."""
        return to_json(self.record())

    def save(self, path: str | PathLike[str]) -> None:
        """Write the JSON, atomically.

        Raises:
            OSError: the folder is missing or cannot be written.
        """
        write_json(path, self.record())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """A table from its file.

        Raises:
            RequestError: the file holds something else.
            OSError: it cannot be read.
        """
        return read_record(
            path,
            FORMAT,
            cls._from_record,
            "is not a sweep's table {}; name a file that fj.sweep or SweepTable.save wrote, or one "
            "that does not exist yet",
        )

    @classmethod
    def _from_record(cls, found: dict[str, Any]) -> Self:
        shared = {f.name: found[f.name] for f in fields(cls)}
        shared["rows"] = tuple(_row(row) for row in found["rows"])
        shared["axes"] = {name: tuple(values) for name, values in found["axes"].items()}
        shared["runs"] = tuple(found["runs"])
        return cls(**shared)

    def compare(self, other: SweepTable, *, sigmas: float = 3.0) -> SweepComparison:
        """How another run of this sweep differs, row by row: `other - self`.

        Rows differ beyond noise where the difference exceeds `sigmas` of its standard errors. Over
        the same documents the errors are paired; else they combine as independent ones.

        Raises:
            RequestError: the metrics differ, no row is in both, or `sigmas` is not above 0.
        """
        from ferrum_jax.research.sweep.compare import compare_tables

        return compare_tables(self, other, sigmas)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Differences from the baseline: bars with standard errors, or a heat map for two axes.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
            RequestError: no variant but the baseline has a value.
        """
        from ferrum_jax.research.sweep.plot import plot_table

        return plot_table(self, path)

    def __str__(self) -> str:
        return self.to_text()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def related(rows: Sequence[SweepRow], base: DocumentValues | None) -> tuple[SweepRow, ...]:
    """The rows with their differences from the baseline's values."""
    return tuple(_related(row, base) for row in rows)


def _related(row: SweepRow, base: DocumentValues | None) -> SweepRow:
    if row.values is None or base is None:
        return row
    difference, error = paired_difference(row.values, base)
    return replace(row, difference=difference, difference_error=error)


def _row(found: dict[str, Any]) -> SweepRow:
    kept = {f.name: found[f.name] for f in fields(SweepRow)}
    kept["key"] = tuple(kept["key"])
    for name in ("difference", "difference_error"):
        kept[name] = math.nan if kept[name] is None else kept[name]
    if kept["values"] is not None:
        values = kept["values"]
        kept["values"] = DocumentValues(
            np.asarray(values["sums"], np.float64),
            np.asarray(values["weights"], np.float64),
            values["num_tokens"],
        )
    return SweepRow(**kept)
