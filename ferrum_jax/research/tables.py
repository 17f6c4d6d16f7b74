"""Tables of text, and numbers with as many digits as their errors leave them."""

from __future__ import annotations

import math
from collections.abc import Sequence

Cells = Sequence[Sequence[str]]
MOST_DECIMALS = 9
WHAT = "what changes"
"""The title of a column of words, which is set to the left."""


def aligned(cells: Cells) -> list[str]:
    """Columns of equal width: words to the left, what stands between them to the right."""
    left = [i for i, title in enumerate(cells[0]) if i == 0 or title == WHAT]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def piped(cells: Cells) -> list[str]:
    """A Markdown table, the first row its head."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    rules = ["---" if i == 0 or title == WHAT else "---:" for i, title in enumerate(head)]
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join(rules)}|",
        *(f"| {' | '.join(row)} |" for row in body),
    ]


def with_error(value: float, error: float, sign: str = "") -> str:
    """`3.2145 ± 0.0021`: two digits of the error, and the value as far as that; `-` for nan."""
    if math.isnan(value):
        return "-"
    if math.isnan(error) or error == 0:
        return f"{value:{sign}.5g}" if value or math.isnan(error) else "0"
    decimals = 1 - math.floor(math.log10(error))
    if decimals > MOST_DECIMALS:
        return f"{value:{sign}.2e} ± {error:.0e}"
    decimals = max(0, decimals)
    return f"{value:{sign}.{decimals}f} ± {error:.{decimals}f}"
