"""The table of `docs/architectures.md` names every model type and every golden case."""

import re
from pathlib import Path

from ferrum_jax.models.families import FAMILIES
from tests.parity.golden import case_names, load_case

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = ROOT / "docs" / "architectures.md"


def table():
    """By model type the names of its cases, as the page lists them without the type."""
    _, rows = PAGE.read_text().split("|---|---|---|---|\n")
    cells = [line.strip("|").split("|") for line in rows.split("\n\n")[0].splitlines()]
    return {row[0].strip(): [name.strip() for name in row[3].split(",")] for row in cells}


def test_every_model_type_has_a_row():
    assert list(table()) == sorted(FAMILIES)


def test_every_golden_case_is_listed_with_its_type():
    listed = {
        kind: {kind if name == "plain" else f"{kind}_{name}" for name in names}
        for kind, names in table().items()
    }
    stored = {}
    for name in case_names():
        stored.setdefault(load_case(name).model_type, set()).add(name)
    assert listed == stored


def test_the_pages_that_count_types_agree():
    readme = re.search(r"\| model types \| (\d+):", (ROOT / "README.md").read_text())
    changelog = re.search(r"- (\d+) model types", (ROOT / "CHANGELOG.md").read_text())
    assert int(readme[1]) == int(changelog[1]) == len(FAMILIES)
