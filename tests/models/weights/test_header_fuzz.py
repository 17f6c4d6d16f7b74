"""Whatever happens to the bytes of a file: a WeightError, or what the safetensors library reads."""

from __future__ import annotations

import contextlib
import json
import math

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.models.weights.safetensors_header import DTYPES, parse_header
from ferrum_jax.types.errors import WeightError

VALID = save(
    {
        "model.embed.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.arange(5).astype(ml_dtypes.bfloat16),
        "n": np.array(7, np.int64),
        "e": np.zeros((0, 2), np.uint8),
    },
    metadata={"format": "pt"},
)
HEADER_END = 8 + int.from_bytes(VALID[:8], "little")

# Half of the edits go to the places that matter most: the length and the header.
PLACES = st.one_of(st.integers(0, HEADER_END), st.integers(0, len(VALID)))
PIECES = st.one_of(st.binary(max_size=4), st.sampled_from([b"0", b"-", b"true", b"[", b"}", b" "]))
EDITS = st.lists(st.tuples(PLACES, st.integers(0, 4), PIECES), min_size=1, max_size=3)

TENSORS = st.dictionaries(
    st.text(max_size=8),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=4)),
    max_size=5,
)
DAMAGE = st.sampled_from(
    [None, -1, 0, 1, 2**63, 2**200, 1.0, True, "1", "F32", [], [0], [0, 1], [1, 0], [-1, 1], [[]]]
)


def mutate(edits):
    content = VALID
    for place, removed, inserted in edits:
        content = content[:place] + inserted + content[place + removed :]
    return content


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.safetensors"


@settings(max_examples=400, deadline=None)
@given(edits=EDITS)
def test_mutated_bytes(scratch, edits):
    content = mutate(edits)
    # A new file each time: to cut one that is mapped would take the map's pages away.
    scratch.unlink(missing_ok=True)
    scratch.write_bytes(content)
    try:
        file = SafetensorsFile(scratch)
        found = {name: (file.shape(name), file.read(name).tobytes()) for name in file.names()}
    except WeightError:
        return
    expected = {
        name: (tuple(tensor["shape"]), bytes(tensor["data"]))
        for name, tensor in safetensors.deserialize(content)
    }
    assert found == expected


def tiled(tensors):
    """A valid header for these tensors, laid end to end, and the bytes of data it describes."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return header, end


@settings(max_examples=100, deadline=None)
@given(tensors=TENSORS)
def test_every_valid_header_is_parsed(tensors):
    header, size = tiled(tensors)
    entries = parse_header(json.dumps(header).encode(), size)
    assert entries.keys() == header.keys()
    for name, (dtype, shape) in tensors.items():
        assert (entries[name].dtype, entries[name].shape) == (DTYPES[dtype], tuple(shape))
        assert [entries[name].begin, entries[name].end] == header[name]["data_offsets"]


@settings(max_examples=200, deadline=None)
@given(tensors=TENSORS.filter(bool), data=st.data(), damage=DAMAGE)
def test_a_header_with_one_damaged_field_is_parsed_or_refused(tensors, data, damage):
    header, size = tiled(tensors)
    name = data.draw(st.sampled_from(sorted(header)))
    header[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = damage
    # Only ValueError is a refusal: whatever else is raised fails the test.
    with contextlib.suppress(ValueError):
        entries = parse_header(json.dumps(header).encode(), size)
        assert sum(entry.end - entry.begin for entry in entries.values()) == size
        for entry in entries.values():
            assert np.empty(entry.shape, entry.dtype).nbytes == entry.end - entry.begin
