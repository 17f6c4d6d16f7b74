"""How long the first token takes when the programs are kept: beside importing jax, on any machine.

Seconds differ by machine and by what else runs; importing jax slows down with them.
"""

import json
import os
import subprocess
import sys

import pytest

from ferrum_jax.runtime.compile_cache import cache_is_sound

MOST = 8.0
"""Imports of jax; 4.0 to 4.4 were seen, on a busy machine and a quiet one."""

FIRST_TOKEN = """
import json, time
start = time.perf_counter()
import jax
imported = time.perf_counter()
import ferrum_jax as fj
with fj.LLM.load("demo") as llm:
    next(llm.stream("Once upon a time", fj.SamplingParams(max_tokens=8, temperature=0)))
    print(json.dumps([imported - start, time.perf_counter() - start, len(llm.compilations)]))
"""


@pytest.mark.skipif(not cache_is_sound(), reason="this jax keeps no programs")
def test_a_warm_start_costs_a_few_imports_of_jax(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # The tests compile in another way than users do.

    def first_token():
        command = [sys.executable, "-c", FIRST_TOKEN]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    _, cold, programs = first_token()
    assert programs <= 3, "a prompt and its first step, and what is compiled beside them"
    kept = sum(file.is_file() for file in tmp_path.rglob("*"))
    assert kept >= programs
    warm = [first_token() for _ in range(2)]
    assert min(seconds / jax for jax, seconds, _ in warm) < MOST
    assert min(seconds for _, seconds, _ in warm) < cold
    assert sum(file.is_file() for file in tmp_path.rglob("*")) >= kept
