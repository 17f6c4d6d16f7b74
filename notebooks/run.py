"""Runs the notebooks, each in a fresh kernel.

    python notebooks/run.py                    all of them
    python notebooks/run.py 03_ablate 05       those whose names begin so
    python notebooks/run.py --save             and write their outputs back

What is saved has fixed metadata, no times of execution, and nothing of what went to stderr, where
progress bars and warnings go: they differ from machine to machine.
Needs `pip install -e '.[notebooks]'`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
TIME_LIMIT = 180
"""Seconds for a whole notebook."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(Exception):
    """A cell raised, or the time ran out; the message names the cell."""


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and print a line for each; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Run the notebooks, each in a fresh kernel.")
    parser.add_argument("names", nargs="*", metavar="name", help="a notebook, or how it begins")
    parser.add_argument("--save", action="store_true", help="write the outputs back")
    options = parser.parse_args(arguments)
    failed = False
    for path in chosen(options.names, parser):
        started = time.monotonic()
        try:
            notebook = execute(path)
        except NotebookFailed as error:
            failed, result = True, f"FAILED {error}"
        else:
            result = "passed"
            if options.save:
                save(notebook, path)
                result = f"passed and saved, {path.stat().st_size / 1024:.0f} KB"
        print(f"{path.stem:<20} {time.monotonic() - started:6.1f} s  {result}", flush=True)
    return int(failed)


def chosen(names: list[str], parser: argparse.ArgumentParser) -> list[Path]:
    """The notebooks that begin with one of the names; all of them without any."""
    found = sorted(FOLDER.glob("*.ipynb"))
    wanted = [Path(name).stem for name in names]
    for name in wanted:
        if not any(path.stem.startswith(name) for path in found):
            parser.error(f"no notebook {name!r}; there are {', '.join(p.stem for p in found)}")
    return [path for path in found if not wanted or path.stem.startswith(tuple(wanted))]


def execute(path: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh kernel.

    Raises:
        NotebookFailed: a cell raised, the kernel died, or `TIME_LIMIT` passed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    deadline = time.monotonic() + TIME_LIMIT
    with client.setup_kernel(env=os.environ | {"NO_COLOR": "1"}):
        for index, cell in enumerate(notebook.cells):
            client.timeout = max(1, round(deadline - time.monotonic()))
            try:
                client.execute_cell(cell, index)
            except CellTimeoutError:
                reason = f"the notebook took more than {TIME_LIMIT} s"
            except CellExecutionError as error:
                reason = TERMINAL.sub("", f"{error.ename}: {error.evalue}")
            except DeadKernelError:
                reason = "the kernel died"
            else:
                continue
            raise NotebookFailed(f"in cell {index} ({first_line(cell)}): {reason}")
    return notebook


def first_line(cell: NotebookNode) -> str:
    """How a cell begins, to find it by."""
    return next((line for line in cell.source.splitlines() if line.strip()), "empty")


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook so that equal outputs give equal files."""
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for index, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = nbformat.from_dict({}), f"cell-{index:02d}"
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [kept(output, count) for output in cell.outputs if is_kept(output)]
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def is_kept(output: NotebookNode) -> bool:
    """Whether an output is for readers; warnings and progress bars on stderr are not."""
    return not (output.output_type == "stream" and output.name == "stderr")


def kept(output: NotebookNode, count: int) -> NotebookNode:
    """An output without what differs from machine to machine."""
    if output.output_type == "execute_result":
        output.execution_count = count
    if "metadata" in output:
        output.metadata = nbformat.from_dict({})
    return output


if __name__ == "__main__":
    sys.exit(main())
