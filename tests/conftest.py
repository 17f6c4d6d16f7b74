"""What every test runs under: checked annotations, the CPU, a compilation cache on disk."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import hypothesis
import jax
import pytest

from tests.annotations import check_annotations

COMPILATION_CACHE = Path(__file__).parent.parent / ".jax_cache" / jax.__version__


def use_cpu() -> None:
    """Run on the CPU unless JAX_PLATFORMS asks for another device."""
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")


def keep_compilations(directory: Path) -> None:
    """Keep every compiled program for the next run; do without where nobody can write.

    And with jax 0.5.0, whose programs crash or err when they are read back (`cache_is_sound`; not
    imported here, since it has to be imported under the checks of annotations).
    """
    if jax.__version_info__ < (0, 6):
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(directory, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def load_hypothesis_profile() -> None:
    """No deadline, since a first call compiles; the same examples on every run of CI."""
    hypothesis.settings.register_profile("local", deadline=None)
    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("repeatable" if os.environ.get("CI") else "local")


def compile_quickly() -> None:
    """Spend little time on optimising programs that run once; see `optimised`.

    XLA's emitters of fusions, which set MLIR up for each one, take most of the time of a program
    that is not optimised: without them it compiles in 0.37 of it (jax 0.10.2, small models). Only
    these versions have the flag; XLA ends a process that sets one that it does not know.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    if (0, 7) <= jax.__version_info__ < (0, 11):
        given = os.environ.get("XLA_FLAGS", "")
        flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{flags} {given}"


@pytest.fixture
def optimised():
    """Compile what the test makes as users' programs are compiled."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop what a module has compiled: thousands of programs exceed a process's memory maps."""
    yield
    jax.clear_caches()
    gc.collect()


def pytest_report_header() -> str:
    """The version and the platform that were tested."""
    return f"jax {jax.__version__} on {jax.config.jax_platforms}"


check_annotations()
use_cpu()
compile_quickly()
keep_compilations(COMPILATION_CACHE)
load_hypothesis_profile()
