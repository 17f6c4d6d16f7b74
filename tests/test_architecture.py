"""What holds for every file of the packages, read from the source. `lint-imports` holds the layers.

A rule yields `(line, what is wrong)`; each has an example here that it must catch.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ferrum_jax", "pallas_kernels")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
DEVICES_FILE = "ferrum_jax/runtime/devices.py"
CHECKPOINT_FOLDERS = ("ferrum_jax/models/weights/", "ferrum_jax/models/families/")
CHECKPOINT_NAMES = re.compile(
    r"self_attn|block_sparse_moe|(input|post_attention)_layernorm|embed_tokens|lm_head"
    r"|\b(q|k|v|o|qkv|gate|up|down|gate_up)_proj\b|model\.(layers|norm)\."
)
ENVIRONMENT = {
    "ferrum_jax/cli/generate.py": ("NO_COLOR",),
    "ferrum_jax/cli/terminal.py": ("NO_COLOR", "XDG_STATE_HOME"),
    "ferrum_jax/runtime/compile_cache.py": ("XDG_CACHE_HOME",),
}
"""Variables that a file may read; none may change what is computed."""
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch"}
DEVICE_QUERIES = {
    "default_backend",
    "device_count",
    "devices",
    "get_backend",
    "local_device_count",
    "local_devices",
}
DEVICE_FACTS = {"device_kind", "memory_stats"}

README_BLOCKS = (
    'pip install -e . && ferrum-jax generate "The for statement"',
    "pip install -e '.[test]' && pytest",
)


@dataclass(frozen=True)
class Source:
    """One file: its path from the repository's root, its text and its syntax tree."""

    path: str
    text: str

    @property
    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(ast.parse(self.text))

    def matches(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
        """Line and text of what a pattern finds."""
        for number, line in enumerate(self.text.splitlines(), 1):
            for match in pattern.finditer(line):
                yield number, match.group()


Rule = Callable[[Source], Iterator[tuple[int, str]]]


def asks_for_devices(source: Source) -> Iterator[tuple[int, str]]:
    if source.path == DEVICES_FILE:
        return
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names = {node.attr} if _root(node) == "jax" else {node.attr} & DEVICE_FACTS
        else:
            continue
        for name in sorted(names & (DEVICE_QUERIES | DEVICE_FACTS)):
            yield node.lineno, f"asks for {name}; only {DEVICES_FILE} does"


def imports_unsafe_modules(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes:
        for name in _imported(node):
            if name.split(".")[0] in UNSAFE_MODULES:
                yield node.lineno, f"imports {name}"
        if isinstance(node, ast.keyword) and _allows_pickle(node):
            yield node.value.lineno, "allows pickles"


def runs_text(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func)
            if name.removeprefix("builtins.") in ("eval", "exec"):
                yield node.lineno, f"calls {name}"


def knows_checkpoint_names(source: Source) -> Iterator[tuple[int, str]]:
    if not source.path.startswith(CHECKPOINT_FOLDERS):
        for line, name in source.matches(CHECKPOINT_NAMES):
            yield line, f"{name!r} is a checkpoint's name; it belongs into {CHECKPOINT_FOLDERS}"


def reads_environment(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.splitlines()
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and _root(node) == "os":
            names = {node.attr}
        else:
            continue
        line = lines[node.lineno - 1]
        allowed = any(variable in line for variable in ENVIRONMENT.get(source.path, ()))
        if names & {"environ", "environb", "getenv", "getenvb", "putenv"} and not allowed:
            yield node.lineno, "touches the environment; take an argument or a config field"


def is_too_long(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield lines, f"{lines} lines, at most {MAX_FILE_LINES}: which second idea is in it?"
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


def leaves_work(source: Source) -> Iterator[tuple[int, str]]:
    yield from source.matches(re.compile(r"\b(TODO|FIXME|XXX)\b"))


def lacks_docstring(source: Source) -> Iterator[tuple[int, str]]:
    module = ast.parse(source.text)
    if ast.get_docstring(module) is None:
        yield 1, "the module has no docstring"
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} has no docstring"


RULES: dict[Rule, str] = {
    asks_for_devices: "import jax\nbackend = jax.default_backend()\n",
    imports_unsafe_modules: "def f():\n    from torch import nn\n",
    runs_text: "eval('1')\n",
    knows_checkpoint_names: "name = 'layers.0.self_attn'\n",
    reads_environment: "import os\nos.environ.get('FERRUM')\n",
    is_too_long: "def f():\n" + "    pass\n" * MAX_FUNCTION_LINES,
    leaves_work: "x = 1  # " + "TODO\n",
    lacks_docstring: "'''A module.'''\ndef f(): ...\n",
}
"""Each rule and the example that it must catch."""

MORE_EXAMPLES: tuple[tuple[Rule, str], ...] = (
    (asks_for_devices, "from jax import devices\n"),
    (asks_for_devices, "def f(device): return device.device_kind\n"),
    (asks_for_devices, "import jax\njax.extend.backend.get_backend()\n"),
    (imports_unsafe_modules, "import numpy as np\nnp.load('x', allow_pickle=True)\n"),
    (imports_unsafe_modules, "import pickle as p\n"),
    (runs_text, "import builtins\nbuiltins.exec('1')\n"),
    (knows_checkpoint_names, "name = 'q_proj'\n"),
    (reads_environment, "from os import getenv\n"),
    (is_too_long, "x = 1\n" * (MAX_FILE_LINES + 1)),
    (lacks_docstring, "x = 1\n"),
    (lacks_docstring, "'''A module.'''\nclass C: ...\n"),
)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    found = [
        Source(path.relative_to(ROOT).as_posix(), path.read_text())
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    assert len(found) > 50
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_file(rule, sources):
    wrong = [f"{source.path}:{line}: {what}" for source in sources for line, what in rule(source)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(("rule", "text"), [*RULES.items(), *MORE_EXAMPLES])
def test_the_rule_catches(rule, text):
    assert list(rule(Source("ferrum_jax/runtime/example.py", text)))


def test_the_exceptions_are_narrow():
    assert not list(asks_for_devices(Source(DEVICES_FILE, RULES[asks_for_devices])))
    folder = CHECKPOINT_FOLDERS[0]
    assert not list(knows_checkpoint_names(Source(folder + "x.py", "x = 'self_attn'\n")))
    path, (variable,) = next(iter(ENVIRONMENT.items()))
    assert not list(reads_environment(Source(path, f"import os\n{variable!r} in os.environ\n")))
    assert list(reads_environment(Source(path, "import os\n'OTHER' in os.environ\n")))


def test_no_public_class_is_defined_twice(sources):
    repeated = {name: paths for name, paths in _class_files(sources).items() if len(paths) > 1}
    assert not repeated


def test_a_repeated_class_is_seen():
    twice = [Source("a.py", "class Thing: ...\n"), Source("b.py", "class Thing(Enum): ...\n")]
    assert _class_files(twice) == {"Thing": ["a.py", "b.py"]}


def test_importing_the_package_loads_no_jax():
    loaded = _python(
        "import sys, ferrum_jax; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    assert "ferrum_jax" in loaded.split()
    assert not {"jax", "jaxlib", "flax", "numpy", "optax"} & set(loaded.split())


def test_importing_every_module_starts_no_device():
    answer = _python(
        "import importlib, pkgutil, ferrum_jax\n"
        "for found in pkgutil.walk_packages(ferrum_jax.__path__, 'ferrum_jax.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())\n"
        "import jax; jax.devices()\n"
        "print(xla_bridge.backends_are_initialized())\n"
    )
    assert answer.split() == ["False", "True"]


def test_the_readme_starts_with_two_commands():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert tuple(block.strip() for block in blocks[:2]) == README_BLOCKS


def _root(node: ast.expr) -> str | None:
    """The name at the start of `a.b.c`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _allows_pickle(keyword: ast.keyword) -> bool:
    return keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _class_files(sources: list[Source]) -> dict[str, list[str]]:
    files = defaultdict(list)
    for source in sources:
        for node in source.nodes:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(source.path)
    return dict(files)


def _python(code: str) -> str:
    """The output of a fresh interpreter, without this one's import hook."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
