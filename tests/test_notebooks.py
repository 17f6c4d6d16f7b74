"""The notebooks as files: whole, short, small, and free of what one machine alone would know.

`python notebooks/run.py` executes them; nothing here does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 400 * 1024
MAX_LINES = 16
MAX_COLUMNS = 100
ABSOLUTE_PATH = re.compile(
    r"(?:^|[\s'\"(=<])(?:/(?:home|Users|opt|usr|tmp|root|work|var)/|[A-Z]:\\)"
)

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def shown_text(cell: dict[str, Any]) -> str:
    """The source of a cell and whatever its outputs say; pictures left out."""
    parts = ["".join(cell["source"])]
    for output in cell.get("outputs", ()):
        parts.append("".join(output.get("text", ())))
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                parts.append("".join(data))
    return "\n".join(parts)


def test_is_a_notebook_with_stable_metadata(path):
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    for index, cell in enumerate(notebook["cells"]):
        assert cell["id"] == f"cell-{index:02d}"
        assert cell["metadata"] == {}, f"cell {index} has metadata; save it with run.py --save"


def test_was_run_in_order_and_without_errors(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs), "there is no picture"


def test_opens_with_a_title_and_ends_with_what_next(path):
    cells = read(path)["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    assert cells[-1]["cell_type"] == "markdown"
    assert "## What next" in "".join(cells[-1]["source"])


def test_is_short_and_small(path):
    assert path.stat().st_size < MAX_BYTES
    for cell in code_cells(path):
        lines = "".join(cell["source"]).splitlines()
        assert len(lines) <= MAX_LINES, lines[0]
        assert max(map(len, lines)) <= MAX_COLUMNS, lines[0]


def test_names_no_folder_of_a_machine(path):
    for cell in read(path)["cells"]:
        found = ABSOLUTE_PATH.search(shown_text(cell))
        assert found is None, f"{found.group().strip()} in the cell {cell['source'][:1]}"
