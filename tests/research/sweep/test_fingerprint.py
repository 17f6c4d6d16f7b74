"""Equal values have equal fingerprints, in every process; others have others."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.sweep.fingerprint import fingerprint
from tests.runtime.models import make_llm, model


def counting(start, step=1):
    def count(llm, taps):
        return start + step

    return count


def a_function(llm, taps):
    return 1.0


class Measure:
    def __init__(self, size):
        self.size = size

    def method(self):
        return self.size


def values():
    return {
        "none": None,
        "zero": 0,
        "false": False,
        "float": 0.0,
        "text": "0",
        "bytes": b"0",
        "list": [0],
        "nested": [[0]],
        "array": np.zeros(1, np.float32),
        "shape": np.zeros((1, 1), np.float32),
        "dtype": np.zeros(1, np.int32),
        "mapping": {"a": 0, "b": 1},
        "swapped": {"a": 1, "b": 0},
        "config": model("dense"),
        "edited config": fj.edit_layers(model("dense"), window=3),
        "engine": fj.EngineConfig(),
        "head": fj.edits.ablate_heads([(0, 1)]),
        "other head": fj.edits.ablate_heads([(1, 0)]),
        "layer": fj.edits.ablate_mlp(0),
        "other layer": fj.edits.ablate_mlp(1),
        "function": a_function,
        "closure": counting(1),
        "other closure": counting(2),
        "partial": partial(a_function, taps=1),
        "object": Measure(1),
        "other object": Measure(2),
        "method": Measure(1).method,
        "class": Measure,
        "module": np,
        "kind": fj.edit_layers(model("dense"), norm="layer").layers[0].norm,
    }


def test_equal_values_have_equal_fingerprints_and_others_others():
    first = {name: fingerprint(value) for name, value in values().items()}
    again = {name: fingerprint(value) for name, value in values().items()}
    assert first == again
    assert len(set(first.values())) == len(first)


def test_it_does_not_matter_how_a_value_is_held():
    assert fingerprint(np.int64(3)) == fingerprint(3)
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(jnp.arange(3.0)) == fingerprint(np.arange(3, dtype=np.float32))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1})


def test_a_model_is_its_config_settings_and_weights():
    engine = fj.EngineConfig(page_size=4)
    same = fingerprint(make_llm("dense", engine))
    assert same == fingerprint(make_llm("dense", engine))
    assert same != fingerprint(make_llm("dense", fj.EngineConfig(page_size=8)))
    assert same != fingerprint(make_llm("windowed", engine))
    assert same != fingerprint(make_llm("dense", engine, dtype="bfloat16"))


def test_what_contains_itself_ends():
    ring: list = [1]
    ring.append(ring)
    assert fingerprint(ring) != fingerprint([1, [1]])


def test_a_cell_without_content_is_no_error():
    def late():
        return unbound

    assert fingerprint(late)
    unbound = 1


@pytest.mark.parametrize("seed", ["1", "2"])
def test_it_is_the_same_in_another_process(seed, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    code = (
        "from tests.research.sweep.test_fingerprint import fingerprint, values, a_function\n"
        "found = values()\n"
        "print(fingerprint([found[k] for k in ('config', 'head', 'closure', 'mapping', 'kind')]))"
    )
    root = Path(__file__).parent.parent.parent.parent
    options = {"cwd": root, "capture_output": True, "text": True, "check": True}
    there = subprocess.run([sys.executable, "-c", code], **options).stdout.strip()
    found = values()
    names = ("config", "head", "closure", "mapping", "kind")
    assert there == fingerprint([found[name] for name in names])
