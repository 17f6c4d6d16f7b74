"""The documents of the tasks in this folder: made of Python's language reference and docstrings.

    python tests/research/lm_eval_tasks/documents.py

writes the JSON files anew from the Python that runs it. `load` is what the tasks call.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

HERE = Path(__file__).parent
CLOZES = (
    ('The "for" statement is used to iterate over the elements of a', "sequence"),
    ('The "while" statement is used for repeated execution as long as an', "expression is true"),
    ('The "if" statement is used for conditional', "execution"),
    ('The "with" statement is used to wrap the execution of a', "block with methods"),
    ('"pass" is a null operation — when it is executed, nothing', "happens"),
    ("Assert statements are a convenient way to insert debugging", "assertions into a program"),
)
LONG = "compound"
"""A topic whose start is longer than the contexts that the golden file was made with."""
ROLLING = {"break": None, "while": None, "import": 1000}
"""Topics whose perplexity is measured, and after how many characters they end."""
PROSE = ("for", "with", "return")
CODE = (textwrap.dedent, textwrap.indent, inspect.cleandoc)


def clozes() -> list[dict[str, Any]]:
    """Sentences of the reference, each with its own end and those of others."""
    ends = [end for _, end in CLOZES]
    documents = []
    for i, (start, end) in enumerate(CLOZES):
        choices = [ends[(i + k) % len(ends)] for k in (2, 0, 1)]
        documents.append({"start": start, "choices": choices, "answer": choices.index(end)})
    far = {**documents[0], "start": f"{topics[LONG][:600]}\n\n{documents[0]['start']}"}
    spaced = {**documents[2], "start": f"{documents[2]['start']}  "}
    return [*documents, spaced, far]


def texts() -> list[dict[str, Any]]:
    """Whole topics, the last of several windows."""
    return [{"text": topics[name][:end]} for name, end in ROLLING.items()]


def prose() -> list[dict[str, Any]]:
    """Starts of topics, the last behind more than a context of other text."""
    starts = [topics[name][:120].rsplit(" ", 1)[0] for name in PROSE]
    return [{"start": start} for start in [*starts, topics[LONG][:500]]]


def code() -> list[dict[str, Any]]:
    """Functions up to the end of their docstring."""
    documents = []
    for function in CODE:
        head, quotes, _ = inspect.getsource(function).partition('"""')
        documents.append({"start": f"{head}{quotes}{function.__doc__}{quotes}\n"})
    return documents


def load(file: str, **_: Any) -> dict[str, Any]:
    """A file's documents as the split `test`; lm-eval passes the model's arguments too."""
    from datasets import Dataset

    return {"test": Dataset.from_list(json.loads((HERE / file).read_text()))}


def main() -> None:
    """Write the four files."""
    for make in (clozes, texts, prose, code):
        text = json.dumps(make(), indent=1, ensure_ascii=False)
        (HERE / f"{make.__name__}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
