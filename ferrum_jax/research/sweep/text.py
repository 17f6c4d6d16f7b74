"""Sweeps as tables of text: numbers with as many digits as their errors leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ferrum_jax.research.tables import WHAT, aligned, piped, with_error

if TYPE_CHECKING:
    from ferrum_jax.research.sweep.table import SweepRow, SweepTable

LONGEST_FAILURE = 200


def as_text(table: SweepTable) -> str:
    """Aligned columns between a line that says what they are and one that says of what."""
    return "\n".join([_headline(table), "", *aligned(_cells(table)), "", *_tail(table)])


def as_markdown(table: SweepTable) -> str:
    """The same as a Markdown table."""
    return "\n".join([_headline(table), "", *piped(_cells(table)), "", "  \n".join(_tail(table))])


def metric_text(table: SweepTable) -> str:
    """`nll [nats/token]`."""
    return f"{table.metric} [{table.unit}]" if table.unit else table.metric


def _headline(table: SweepTable) -> str:
    if not table.rows:
        return f"{metric_text(table)}: nothing measured yet"
    base = table.baseline
    counts = [f"{base.num_documents:,} document{'' if base.num_documents == 1 else 's'}"]
    if base.num_tokens is not None:
        counts.append(f"{base.num_tokens:,} tokens")
    value = with_error(base.value, base.error)
    return f"{metric_text(table)}, {', '.join(counts)}; {base.name}: {value}"


def _cells(table: SweepTable) -> list[list[str]]:
    return _grid_cells(table) if len(table.axes) == 2 else _row_cells(table)


def _row_cells(table: SweepTable) -> list[list[str]]:
    """A row per variant; its description where the name does not say it already."""
    named = all(row.variant == row.name for row in table.rows)
    head = ["variant", table.metric, "difference", "seconds"]
    rows = []
    for row in table.rows:
        value, change = with_error(row.value, row.error), _difference(row, table)
        if row.failure is not None:
            value = change = "failed"
        rows.append([row.name, value, change, f"{row.seconds:.2f}"])
    if named:
        return [head, *rows]
    whats = ["" if row.variant == row.name else row.variant for row in table.rows]
    pairs = zip(rows, whats, strict=True)
    return [[*head, WHAT], *([*row, what] for row, what in pairs)]


def _difference(row: SweepRow, table: SweepTable) -> str:
    if row is table.baseline:
        return ""
    return with_error(row.difference, row.difference_error, "+")


def _grid_cells(table: SweepTable) -> list[list[str]]:
    """Differences by the first axis downwards and the second across."""
    (down, rows), (across, columns) = table.axes.items()
    found = {row.key: row for row in table.rows}
    cells = [[f"{down} \\ {across}", *map(str, columns)]]
    for y in rows:
        line = [str(y)]
        for x in columns:
            row = found.get((y, x))
            if row is None:
                line.append("")
            else:
                line.append("failed" if row.failure is not None else _difference(row, table))
        cells.append(line)
    return cells


def _tail(table: SweepTable) -> list[str]:
    """What the errors are, what went wrong, and which weights and machine it was."""
    many = table.rows and table.baseline.num_documents > 1
    errors = "± standard error over documents" if many else "one document, so no errors"
    where = ", the cells" if len(table.axes) == 2 else ""
    lines = [f"differences from the baseline{where}: paired by document; {errors}"]
    failed = [(row.name, row.failure) for row in table.rows if row.failure is not None]
    lines += [f"failed: {name}: {_shortened(failure)}" for name, failure in failed]
    facts = [f"weights {table.weights[:12]}"]
    if table.seed is not None:
        facts.append(f"seed {table.seed}")
    if table.runs:
        run = table.runs[-1]
        facts += [f"{name} {run['versions'][name]}" for name in ("ferrum_jax", "jax")]
        facts.append(run["device"]["kind"])
    return [*lines, ", ".join(facts)]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_FAILURE else line[: LONGEST_FAILURE - 3] + "..."
