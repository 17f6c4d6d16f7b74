"""Tables as text, as files, and against one another."""

import json
import math

import pytest

import ferrum_jax as fj
from ferrum_jax.research.sweep import SweepTable
from ferrum_jax.research.tables import with_error
from tests.research.sweep.tables import make_table

LIST = [("baseline", [2.0, 4.0]), ("a", [3.0, 7.0]), ("b|c", None)]
GRID = [
    ("baseline", [2.0, 4.0]),
    ((0, "x"), [2.0, 4.0]),
    ((0, "y"), [1.0, 3.5]),
    ((1, "x"), None),
]
AXES = {"layer": (0, 1), "head": ("x", "y")}


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.21449, 0.00213, "+3.2145 ± 0.0021"),
        (-0.5, 0.25, "-0.50 ± 0.25"),
        (1234.5, 96.0, "+1234 ± 96"),
        (1234.5, 1500.0, "+1234 ± 1500"),
        (1e-12, 2e-13, "+1.00e-12 ± 2e-13"),
        (2.0, 0.0, "+2"),
        (0.0, 0.0, "0"),
        (2.5, math.nan, "+2.5"),
        (math.nan, math.nan, "-"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(value, error, text):
    assert with_error(value, error, "+") == text


def test_the_text_has_a_row_per_variant():
    lines = make_table(LIST).to_text().splitlines()
    assert lines[0] == "nll [nats/token], 2 documents; baseline: 3.0 ± 1.0"
    assert lines[2].split() == ["variant", "nll", "difference", "seconds", "what", "changes"]
    assert lines[3].split()[:4] == ["baseline", "3.0", "±", "1.0"]
    assert lines[4].split()[:7] == ["a", "5.0", "±", "2.0", "+2.0", "±", "1.0"]
    assert lines[4].endswith("what a does")
    assert lines[5].split()[:3] == ["b|c", "failed", "failed"]
    assert "failed: b|c: it went wrong" in lines
    assert lines[-1] == "weights wwwwwwwwwwww, ferrum_jax 0.1.0, jax 0.10.2, cpu"


def test_markdown_has_as_many_cells_in_every_row():
    table = make_table(LIST)
    rows = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    cells = [line.replace("\\|", "").strip("|").split("|") for line in rows]
    assert {len(row) for row in cells} == {5}
    assert cells[3][2].strip() == "+2.0 ± 1.0"
    assert table._repr_markdown_() == table.to_markdown()
    assert str(table) == table.to_text()


def test_a_grid_of_two_axes_has_rows_and_columns():
    lines = make_table(GRID, axes=AXES).to_text().splitlines()
    assert lines[2].split() == ["layer", "\\", "head", "x", "y"]
    assert lines[3].split() == ["0", "0", "-0.75", "±", "0.25"]
    assert lines[4].split() == ["1", "failed"]
    assert make_table(GRID, axes=AXES)[0, "y"].difference == -0.75


def test_a_single_document_has_values_without_errors():
    lines = make_table([("baseline", [2.0]), ("a", [3.5])]).to_text().splitlines()
    assert lines[4].split()[:3] == ["a", "3.5", "+1.5"]
    assert lines[-2].endswith("one document, so no errors")


def test_a_file_gives_the_table_back(tmp_path):
    path = tmp_path / "table.json"
    table = make_table(GRID, axes=AXES, seed=7)
    table.save(path)
    loaded = SweepTable.load(path)
    assert loaded.to_json() == table.to_json()
    assert loaded.to_text() == table.to_text()
    assert loaded.axes == AXES
    assert loaded[0, "y"].error == table[0, "y"].error
    assert math.isnan(loaded[1, "x"].difference)
    record = json.loads(path.read_text())
    assert record["rows"][2]["value"] == 2.25
    assert record["rows"][2]["difference"] == -0.75
    assert record["rows"][3]["value"] is None
    assert record["rows"][3]["failure"] == "it went wrong"
    assert record["seed"] == 7


def test_a_row_that_there_is_not_is_named():
    table = make_table(LIST)
    assert table["a"] is table.rows[1]
    assert len(table) == 3
    with pytest.raises(fj.RequestError, match="no row 'z'; the rows are baseline, a"):
        table["z"]


def test_runs_over_the_same_documents_are_paired():
    old = make_table(LIST)
    new = make_table([("baseline", [2.0, 4.0]), ("a", [3.5, 7.5]), ("b|c", None)])
    found = old.compare(new)
    same, a, failed = found.rows
    assert found.paired
    assert (same.difference, same.beyond_noise) == (0.0, False)
    # Both documents differ by 0.5: without a spread there is no noise.
    assert (a.difference, a.error, a.beyond_noise) == (0.5, 0.0, True)
    assert not failed.beyond_noise
    assert found.differing == (a,)
    assert "1 of 3 rows differs beyond noise" in found.to_text()
    assert new.compare(old).rows[1].difference == -0.5


def test_runs_over_other_documents_combine_their_errors():
    old = make_table([("baseline", [2.0, 4.0]), ("a", [3.0, 3.2])])
    new = make_table([("baseline", [3.0, 5.0]), ("a", [5.0, 5.4])], definition="e" * 64)
    found = old.compare(new, sigmas=2)
    base, a = found.rows
    assert not found.paired
    assert base.error == pytest.approx(math.hypot(1.0, 1.0))
    assert not base.beyond_noise
    # Errors 0.1 and 0.2.
    assert a.difference == pytest.approx(2.1)
    assert a.error == pytest.approx(math.hypot(0.1, 0.2))
    assert a.beyond_noise
    assert "of independent documents" in found.to_markdown()


def test_what_only_one_run_has_is_said():
    old, new = make_table(LIST), make_table([("baseline", [2.0, 4.0]), ("b|c", [1.0, 2.0])])
    found = old.compare(new)
    assert found.missing == ("a",)
    assert found.rows[1].beyond_noise  # failed in one run only
    assert found.to_text().splitlines()[-1] == "in one run only: a"
    rows = [line for line in found._repr_markdown_().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}


def test_what_cannot_be_compared_is_refused():
    table = make_table(LIST)
    with pytest.raises(fj.RequestError, match="measured nll"):
        table.compare(make_table(LIST, metric="accuracy", unit=""))
    with pytest.raises(fj.RequestError, match="no variant is in both"):
        table.compare(make_table([("other", [1.0, 2.0])]))
    with pytest.raises(fj.RequestError, match="sigmas is 0"):
        table.compare(table, sigmas=0)
