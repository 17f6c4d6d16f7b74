"""Marks the golden cases that a run leaves out: `-m "not every_case"`."""

from __future__ import annotations

import pytest

from tests.parity.golden import case_names, first_cases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that run all cases, those beyond one of each model type are `every_case`."""
    runs: dict[str, list[tuple[pytest.Item, str]]] = {}
    for item in items:
        name = getattr(getattr(item, "callspec", None), "params", {}).get("name")
        if name is not None:
            runs.setdefault(item.nodeid.partition("[")[0], []).append((item, name))
    known, first = set(case_names()), set(first_cases())
    for of_function in runs.values():
        names = {name for _, name in of_function}
        if not names <= known or not first <= names:
            continue
        for item, name in of_function:
            if name not in first:
                item.add_marker("every_case")
