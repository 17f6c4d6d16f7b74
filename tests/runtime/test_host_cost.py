"""What a step costs the host, beside a loop of plain Python on the same machine at the same time.

A guard against a cost that creeps in: CPU time of the thread that drives the engine, never seconds.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def costs():
    command = [sys.executable, "-m", "tests.runtime.host_cost"]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_row_costs_a_few_objects(costs):
    per_row = (costs["many"] - costs["few"]) / costs["rows"]
    assert per_row < 12 * costs["one"], per_row / costs["one"]


def test_a_step_of_64_rows_costs_little_besides(costs):
    """Dispatch, reading the tokens, and all that is done once a step."""
    assert costs["few"] < 3000 * costs["one"], costs["few"] / costs["one"]
