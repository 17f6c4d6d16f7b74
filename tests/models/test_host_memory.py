"""Memory for weights: what it holds, where it lies, and that jax takes it as it is."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.models.host_memory import HUGE, empty_for_weights, for_weights

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping that an address lies in."""
    within = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, behind = (int(end, 16) for end in span.groups())
            within = first <= address < behind
        elif within and line.startswith("AnonHugePages:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"{address:x} is not mapped")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
@pytest.mark.parametrize("shape", [(3, 5), (2, 1500, 1024), (0, 4)])
def test_holds_what_is_written_to_it(shape, dtype):
    values = np.random.default_rng(0).integers(-100, 100, shape)
    laid = for_weights(values, dtype)
    assert laid.shape == shape
    assert laid.dtype == dtype
    np.testing.assert_array_equal(laid.astype(np.int64), values)
    np.testing.assert_array_equal(np.asarray(jax.device_put(laid)), laid)


def test_large_arrays_do_not_overlap():
    first, second = (empty_for_weights((HUGE,), np.int8) for _ in range(2))
    first[:], second[:] = 1, 2
    assert (first == 1).all()
    assert (second == 2).all()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a device copies what it is given")
def test_jax_takes_a_large_array_without_a_copy_and_keeps_it():
    laid = for_weights(np.ones((1024, 1024)), np.float32)
    address, array = laid.ctypes.data, jax.device_put(laid)
    assert array.unsafe_buffer_pointer() == address
    del laid
    for _ in range(3):  # Whoever else gets memory now does not get this.
        empty_for_weights((1024, 1024), np.float32)[...] = 2
    assert float(array.sum()) == 1024 * 1024


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="no huge pages on this system"
)
def test_lies_in_huge_pages():
    laid = for_weights(np.ones(8 * HUGE + 4096), np.int8)
    assert 4 * HUGE <= _huge_bytes(laid.ctypes.data) <= 8 * HUGE, "some may not have been free"
