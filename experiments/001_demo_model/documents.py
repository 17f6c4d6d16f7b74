"""The text of the running Python as documents: reference topics, docstrings, source files.

Everything is read from disk: a source file is parsed with `ast`, never imported or executed.
A document's `origin` is the file (or topic) that its text comes from; the split goes by origin.
"""

import ast
import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

SKIPPED_PARTS = frozenset(
    {"__pycache__", "_bundled", "encodings", "idle_test", "site-packages", "test", "tests"}
)
SKIPPED_PREFIXES = ("config-", "_sysconfigdata")
SKIPPED_FILES = frozenset({"pydoc_data/topics.py"})
MAX_DIGIT_SHARE = 0.15  # of the visible characters; tables of numbers lie above it
MIN_SOURCE_BYTES = 200
DEFINITION = re.compile(r"^(?:@|def |class |async def |if __name__)")
INLINE_QUOTES = re.compile(r'"([^"\s]{1,40})"')


@dataclass(frozen=True)
class Document:
    """One text: `kind` is topic, docstring or source; `origin` is where it was read."""

    kind: str
    origin: str
    text: str


def stdlib_root() -> Path:
    """The directory of the standard library of the running Python."""
    return Path(sysconfig.get_paths()["stdlib"])


def topic_documents() -> list[Document]:
    """Each topic of the language reference, sorted by name, with its title as first line."""
    from pydoc_data.topics import topics

    return [
        Document("topic", f"topic/{name}", _with_title(name, normalise(text)))
        for name, text in sorted(topics.items())
    ]


def source_documents(root: Path) -> list[Document]:
    """The library's source files, sorted by path; tests, tables and identical copies left out."""
    documents, seen = [], set()
    for path in sorted(root.rglob("*.py")):
        origin = path.relative_to(root).as_posix()
        text = _read_utf8(path) if _is_wanted(origin) else ""
        digest = hashlib.sha256(text.encode()).digest()
        if len(text) < MIN_SOURCE_BYTES or digest in seen or digit_share(text) > MAX_DIGIT_SHARE:
            continue
        seen.add(digest)
        documents.append(Document("source", origin, text))
    return documents


def docstring_documents(sources: list[Document]) -> list[Document]:
    """For each source file that documents itself, its docstrings as a reference page."""
    pages = ((source.origin, render_docstrings(source)) for source in sources)
    return [Document("docstring", origin, page) for origin, page in pages if page]


def render_docstrings(source: Document) -> str:
    """The signatures and docstrings of one file, in file order; empty where it does not parse."""
    try:
        tree = ast.parse(source.text)
    except SyntaxError:
        return ""
    module = module_name(source.origin)
    entries = [f"{heading}\n{_indented(doc)}" for heading, doc in _entries(tree, module)]
    doc = ast.get_docstring(tree)
    if doc:
        entries.insert(0, f"{module}\n{'*' * len(module)}\n\n{doc}")
    return normalise("\n\n".join(entries)) if entries else ""


def module_name(origin: str) -> str:
    """`json/decoder.py` is `json.decoder`, `json/__init__.py` is `json`."""
    return origin.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def split_source(text: str, least: int = 3000) -> list[str]:
    """Cut a file before top-level definitions into pieces of at least `least` characters.

    So that training sees definitions at the start of a document, as a prompt puts them.
    """
    pieces, piece, size, decorated = [], [], 0, False
    for line in text.splitlines(keepends=True):
        starts = bool(DEFINITION.match(line)) and not decorated
        if starts and size >= least:
            pieces.append("".join(piece))
            piece, size = [], 0
        piece.append(line)
        size += len(line)
        decorated = line.startswith("@")
    return [normalise(part) for part in [*pieces, "".join(piece)] if part.strip()]


def split_topic(text: str) -> list[str]:
    """The sections of a topic (a title underlined with *, = or -), each as a text of its own."""
    starts = [m.start() for m in re.finditer(r"^[^\n]+\n([*=-])\1{3,}\n", text, re.MULTILINE)]
    bounds = [0, *(start for start in starts if start > 0), len(text)]
    sections = (text[a:b] for a, b in pairwise(bounds))
    return [normalise(section) for section in sections if section.strip()]


def without_inline_quotes(text: str) -> str:
    """Prose as people type it: The "for" statement -> The for statement; code stays as it is."""
    lines = text.splitlines(keepends=True)
    return "".join(x if x.startswith("   ") else INLINE_QUOTES.sub(r"\1", x) for x in lines)


def normalise(text: str) -> str:
    r"""Newlines as \n, no blank lines around, one newline at the end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip() + "\n"


def digit_share(text: str) -> float:
    """The share of digits among the characters that are not white space."""
    visible = sum(not c.isspace() for c in text)
    return sum(c.isdigit() for c in text) / max(visible, 1)


def _with_title(name: str, text: str) -> str:
    lines = text.split("\n", 2)
    titled = len(lines) > 1 and re.fullmatch(r"([*=-])\1+", lines[1])
    return text if titled else f"{name}\n{'*' * len(name)}\n\n{text}"


def _is_wanted(origin: str) -> bool:
    parts = origin.split("/")
    return (
        origin not in SKIPPED_FILES
        and not SKIPPED_PARTS.intersection(parts)
        and not any(part.startswith(SKIPPED_PREFIXES) for part in parts)
    )


def _read_utf8(path: Path) -> str:
    try:
        return normalise(path.read_bytes().decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError:
        return ""


def _entries(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = f"{prefix}.{child.name}"
        doc = ast.get_docstring(child, clean=False)
        if doc and doc.strip():
            yield _heading(child, name), inspect.cleandoc(doc)
        if isinstance(child, ast.ClassDef):
            yield from _entries(child, name)


def _heading(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{word}{name}({ast.unparse(node.args)})"


def _indented(doc: str) -> str:
    return "".join(f"    {x}" if x.strip() else x for x in doc.splitlines(keepends=True))
