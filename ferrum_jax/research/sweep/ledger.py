"""The rows of a sweep as they come, kept in a file so that a stopped sweep can go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ferrum_jax.research.sweep.axes import Key, key_text
from ferrum_jax.research.sweep.groups import Job, Outcome
from ferrum_jax.research.sweep.statistics import checked_values
from ferrum_jax.research.sweep.table import SweepRow, SweepTable, related
from ferrum_jax.runtime.record import environment
from ferrum_jax.types import FerrumError, RequestError


class Ledger:
    """What has been measured, by name; `table` puts it in order.

    Raises:
        RequestError: the file belongs to another sweep.
    """

    def __init__(self, table: SweepTable, keys: Sequence[Key], path: Path | None):
        """`table`: what the rows share; `keys`: all names in their order, the baseline's first."""
        self._shared = table
        self._keys = list(keys)
        self._path = path
        self._earlier: dict[Key, SweepRow] = {}
        self._rows: dict[Key, SweepRow] = {}
        if path is not None and path.exists():
            self._read(path)

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, job: Job) -> bool:
        """Whether an earlier call has measured just this; its row is then taken over."""
        row = self._earlier.get(job.key)
        if row is None or row.failure is not None or row.fingerprint != job.fingerprint:
            return False
        self._rows[job.key] = replace(row, name=self._name(job.key), variant=job.description)
        return True

    def begin(self) -> None:
        """Note what measures the rows to come; a path that cannot be written is found out here."""
        runs = (*self._shared.runs, environment())
        self._shared = replace(self._shared, runs=runs)
        self._write()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take in what has been measured.

        Raises:
            FerrumError: the baseline failed: nothing can be compared with it.
        """
        for outcome in outcomes:
            self._rows[outcome.job.key] = self._row(outcome)
        self._write()

    @property
    def table(self) -> SweepTable:
        """The rows so far."""
        base = self._rows.get(self._keys[0])
        rows = [self._rows[key] for key in self._keys if key in self._rows]
        return replace(self._shared, rows=related(rows, None if base is None else base.values))

    def _row(self, outcome: Outcome) -> SweepRow:
        job, result = outcome.job, outcome.result
        row = SweepRow(
            key=job.key,
            name=self._name(job.key),
            variant=job.description,
            fingerprint=job.fingerprint,
            run=len(self._shared.runs) - 1,
            seconds=outcome.seconds,
        )
        base = self._rows.get(self._keys[0])
        count = None if base is None or base.values is None else len(base.values.sums)
        try:
            if isinstance(result, FerrumError):
                raise result
            return replace(row, values=checked_values(result, count))
        except FerrumError as error:
            if job.key == self._keys[0]:
                raise
            return replace(row, failure=str(error))

    def _name(self, key: Key) -> str:
        return key_text(key, self._shared.axes)

    def _write(self) -> None:
        if self._path is not None:
            self.table.save(self._path)

    def _read(self, path: Path) -> None:
        """Rows of an earlier call.

        Raises:
            RequestError: they measured something else, or variants that this call does not name.
        """
        found, wanted = SweepTable.load(path), self._shared
        rows = {row.key: row for row in found.rows}
        if found.rows and found.rows[0].key not in self._keys:  # the baseline by another name
            rows[self._keys[0]] = replace(rows.pop(found.rows[0].key), key=self._keys[0])
        differences = [
            f"{what} {old} there and {new} here"
            for what, old, new in (
                ("the metric is", found.metric, wanted.metric),
                ("the unit is", found.unit, wanted.unit),
                ("its texts or its definition are", found.definition[:12], wanted.definition[:12]),
                ("the weights are", found.weights[:12], wanted.weights[:12]),
                ("the seed is", found.seed, wanted.seed),
            )
            if old != new
        ]
        foreign = [row.name for key, row in rows.items() if key not in self._keys]
        if foreign:
            differences.append(f"it has rows that are not asked for: {', '.join(foreign[:10])}")
        if differences:
            raise RequestError(
                f"{path} was written by another sweep: {'; '.join(differences)}. Give another "
                "path, or remove that file to measure everything anew"
            )
        self._earlier = rows
        self._shared = replace(wanted, runs=found.runs)
