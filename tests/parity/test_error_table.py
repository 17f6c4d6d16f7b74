"""`docs/accuracy.md` has every case of every model type in it, and no figure above its bar."""

from collections import Counter

import pytest

from ferrum_jax.models.families import FAMILIES
from tests.parity import error_table, test_bfloat16, test_double
from tests.parity.error_table import CaseErrors, type_rows
from tests.parity.golden import case_names, load_case

AGAIN = "run `python -m tests.parity.error_table`"


def tables(text):
    """Each table of a page by its first column's header: rows of cells."""
    found, header = {}, None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
            found[header[0]] = []
        elif not cells[0].startswith("---"):
            found[header[0]].append(dict(zip(header, cells, strict=True)))
    return found


@pytest.fixture(scope="module")
def page():
    return tables(error_table.OUT.read_text(encoding="utf-8"))


def test_every_model_type_with_all_its_cases(page):
    rows = {row["model type"]: int(row["cases"]) for row in page["model type"]}
    assert rows == Counter(load_case(name).model_type for name in case_names()), AGAIN
    assert rows.keys() == set(FAMILIES)


def test_no_figure_is_above_its_bar(page):
    for row in page["model type"]:
        bar = float(row["bar"])
        assert 0 < float(row["logits"]) < bar
        assert load_case(row["worst case"]).model_type == row["model type"], AGAIN
        # A log-probability has the error of its logit and of the sum of all.
        assert not row["engine logprobs"] or 0 < float(row["engine logprobs"]) < 2 * bar
        equal, of = row["greedy"].split("/")
        assert equal == of


def test_every_float64_and_bfloat16_figure_is_there(page):
    assert sorted(row["case"] for row in page["case"]) == test_double.NAMES, AGAIN
    for row in page["case"]:
        assert 0 < float(row["rms: ratio"]) <= test_double.MOST
        if row["case"] not in test_double.ONE_TOKEN:
            assert 0 < float(row["largest: ratio"]) <= test_double.MOST
    models = [row["model"] for row in page["model"]]
    assert models == ["demo", *test_bfloat16.REFERENCE["cases"]], AGAIN
    assert all(0 < float(row["ratio"]) <= test_bfloat16.MOST for row in page["model"])


def test_a_row_has_the_worst_of_its_cases():
    found = [
        CaseErrors("llama", "llama", 5e-5, 1e-6, 2e-6, True, "a"),
        CaseErrors("llama_tied", "llama", 5e-5, 3e-6, None, None, "a"),
        CaseErrors("gpt2", "gpt2", 5e-5, 2e-6, 4e-6, False, "a"),
    ]
    (gpt2, llama) = tables("\n".join(type_rows(found)))["model type"]
    assert (gpt2["logits"], gpt2["greedy"], gpt2["cases"]) == ("2.0e-06", "0/1", "1")
    assert (llama["logits"], llama["worst case"]) == ("3.0e-06", "llama_tied")
    assert (llama["engine logprobs"], llama["greedy"], llama["cases"]) == ("2.0e-06", "1/1", "2")
