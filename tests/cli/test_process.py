"""The command as a process: start-up, exit codes, signals, pipes."""

import argparse
import signal
import subprocess
import sys

import pytest

from ferrum_jax.cli.options import add_engine_options, key_values

ENDLESS = ("--max-tokens", 8000, "--ignore-eos")
"""Far more tokens than a test waits for."""
LOADED = """
import sys
sys.argv = ["ferrum-jax", *sys.argv[1:]]
from ferrum_jax.cli.main import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("heavy:", sorted({"jax", "numpy", "flax"} & set(sys.modules)), "code:", code)
"""


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["bench", "--help"], 0),
        (["--version"], 0),
        (["generate", "x", "--engine", "nonsense"], 2),
        (["generate"], 2),
        (["train"], 2),
    ],
)
def test_parsing_loads_no_jax(start, argv, code):
    out, _ = start(*argv, python=("-c", LOADED)).communicate(timeout=60)
    assert out.splitlines()[-1] == f"heavy: [] code: {code}"


def test_a_wrong_path_ends_with_one_line(start):
    process = start("info", "--model", "/no/such/model")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def interrupted(process) -> tuple[str, str]:
    """Output of a process that gets Ctrl-C, and again if it goes on: Python drops an interrupt that
    arrives within a finaliser."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            continue
    return process.communicate(timeout=60)


def test_ctrl_c_gives_130_and_no_traceback(start, checkpoint):
    process = start("generate", "x", "--model", checkpoint, *ENDLESS)
    assert process.stdout.read(8).startswith("x")  # it has begun to answer
    _, err = interrupted(process)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "error: interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_a_reader_that_leaves_is_no_error(start, checkpoint):
    process = start("generate", "x", "--model", checkpoint, *ENDLESS)
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 141
    assert err == ""


def test_key_values_are_python_literals_or_text():
    text = "page_size=16,policy=fcfs,memory_fraction=0.5,chunked_prefill=false,num_pages=None"
    assert key_values(text) == {
        "page_size": 16,
        "policy": "fcfs",
        "memory_fraction": 0.5,
        "chunked_prefill": False,
        "num_pages": None,
    }


def test_an_option_of_key_values_may_be_given_more_than_once():
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    words = ["--engine", "page_size=16,policy=fcfs", "--engine", "page_size=8"]
    assert parser.parse_args(words).engine == {"page_size": 8, "policy": "fcfs"}
    assert parser.parse_args([]).engine == {}


def test_the_console_script_names_an_existing_function():
    import tomllib

    from tests.cli.conftest import ROOT

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ferrum-jax": "ferrum_jax.cli.main:main"}


def test_python_m_runs_it(start):
    process = start("--version", stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=60)
    assert out.startswith("ferrum-jax ")
