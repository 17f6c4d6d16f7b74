"""Compiled programs that outlive the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import ferrum_jax as fj
from ferrum_jax.runtime.compile_cache import cache_is_sound, default_folder, use_compile_cache

sound = pytest.mark.skipif(not cache_is_sound(), reason="this jax reads its programs back wrongly")
WRITES = """
import ferrum_jax as fj
with fj.LLM.load("demo", engine=fj.EngineConfig(max_num_seqs=1, max_num_batched_tokens=16)) as llm:
    params = fj.SamplingParams(max_tokens=8, temperature=0)
    print(llm.generate("The for statement", params)[0].outputs[0].text)
"""


@pytest.fixture(autouse=True)
def cache_setting():
    """jax's compilation cache, put back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    yield before
    jax.config.update("jax_compilation_cache_dir", before)


@sound
def test_a_folder_that_was_asked_for_is_made(make_llm, tmp_path):
    with make_llm(compile_cache_dir=str(tmp_path / "programs"), max_num_seqs=3) as llm:
        llm.generate([[5]], fj.SamplingParams(max_tokens=2))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "programs")


@sound
def test_one_that_cannot_be_written_is_a_warning(make_llm, tmp_path, cache_setting):
    (tmp_path / "file").write_text("")
    with (
        make_llm(compile_cache_dir=str(tmp_path / "file" / "under")) as llm,
        pytest.warns(UserWarning, match="compile_cache_dir is not used: .* cannot be written"),
    ):
        assert llm.engine.has_work is False
    assert jax.config.jax_compilation_cache_dir == cache_setting


def test_a_jax_that_reads_its_programs_back_wrongly_keeps_none(
    tmp_path, cache_setting, monkeypatch
):
    monkeypatch.setattr(jax, "__version_info__", (0, 5, 0))
    with pytest.warns(UserWarning, match="does not read its programs back"):
        use_compile_cache(str(tmp_path / "programs"))
    assert jax.config.jax_compilation_cache_dir == cache_setting


@sound
def test_by_default_it_is_the_users_folder_unless_jax_has_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "given"))
    use_compile_cache("auto")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")
    jax.config.update("jax_compilation_cache_dir", None)
    use_compile_cache(None)
    assert jax.config.jax_compilation_cache_dir is None
    use_compile_cache("auto")
    assert jax.config.jax_compilation_cache_dir == str(default_folder())
    assert default_folder().is_relative_to(tmp_path)
    assert jax.__version__ in default_folder().name


def test_a_users_folder_that_cannot_be_written_goes_unused_in_silence(
    tmp_path, monkeypatch, recwarn
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    use_compile_cache("auto")
    assert jax.config.jax_compilation_cache_dir is None
    assert not recwarn.list


@sound
@pytest.mark.every_case
def test_damaged_files_are_compiled_anew(tmp_path):
    """Two processes; between them every kept program is cut or overwritten."""

    def run() -> str:
        environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", WRITES]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    text = run()
    programs = [p for p in tmp_path.rglob("*") if p.is_file() and p.name.endswith("-cache")]
    assert programs
    for i, program in enumerate(programs):
        content = program.read_bytes()
        program.write_bytes(content[: len(content) // 2] if i % 2 else b"\0" * 100)
    assert run() == text


def test_what_is_no_path_is_refused():
    with pytest.raises(fj.ConfigError, match="compile_cache_dir is 3; it must be a folder's path"):
        fj.EngineConfig(compile_cache_dir=3)
    with pytest.raises(fj.ConfigError, match="compile_cache_dir"):
        fj.EngineConfig(compile_cache_dir=Path("x"))
