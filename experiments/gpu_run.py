"""A run of an experiment on a GPU: its arguments, its clock, and the results as they come."""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ferrum_jax.runtime.record import environment, write_json


class GpuRun:
    """Writes `results.json` anew after every row, so that a run can be stopped anywhere."""

    def __init__(self, folder: Path, about: str | None, full: Any, small: Any):
        """Reads the command line, and ends the program where this is no GPU.

        Args:
            folder: the experiment's, where its results go unless `--out` says otherwise.
            about: what `--help` says.
            full: the plan of a run; has `seconds` and `interpret`.
            small: the plan of `--interpret`, which shows on a CPU that the script runs.
        """
        parser = argparse.ArgumentParser(description=about)
        parser.add_argument("--interpret", action="store_true", help="a small run on a CPU")
        parser.add_argument("--out", type=Path, default=folder, help="folder of the results")
        arguments = parser.parse_args()
        if arguments.interpret and arguments.out == folder:
            parser.error("--interpret measures nothing: name another folder with --out")
        warnings.filterwarnings("ignore", message="The Pallas Triton backend is deprecated")
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.plan = small if arguments.interpret else full
        self._start = time.monotonic()
        self.result: dict[str, Any] = {
            **environment(f"python experiments/{folder.name}/run.py"),
            "interpreted": self.plan.interpret,
            "config": asdict(self.plan),
            "complete": False,
            "rows": [],
        }
        self.platform: str = self.result["device"]["platform"]
        if self.platform != "gpu" and not self.plan.interpret:
            parser.error(f"this is {self.platform}, not a GPU; see --interpret")

    @property
    def left(self) -> float:
        """Seconds until nothing new begins."""
        return self.plan.seconds - (time.monotonic() - self._start)

    def add(self, row: dict[str, Any], line: str) -> None:
        """A row of the results, and what is printed of it."""
        self.result["rows"].append(row)
        self.result["seconds"] = round(time.monotonic() - self._start, 1)
        write_json(self.out / "results.json", self.result)
        print(line, flush=True)

    def finish(self, draw: Callable[[dict[str, Any], Path], None], figure: str) -> None:
        """The results as a whole, and their figure."""
        self.result["complete"] = self.left > 0
        write_json(self.out / "results.json", self.result)
        draw(self.result, self.out / figure)
