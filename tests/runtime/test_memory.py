"""The memory of a model that is not loaded yet."""

from __future__ import annotations

from dataclasses import replace

import jax
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.runtime import memory
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.directory import DEMO_MODEL
from ferrum_jax.runtime.memory import bytes_text, check_weights_fit, plan_memory, weight_bytes
from ferrum_jax.types import DataType
from tests.runtime import hybrids
from tests.runtime.models import model
from tests.runtime.speculation.proposers import write_llama

ENGINE = fj.EngineConfig(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=128)


def held(llm: fj.LLM) -> int:
    """Bytes of the arrays that an engine holds, the weights among them."""
    executor = llm.engine.executor
    trees = [llm.params, executor.cache, executor._sampling]
    if executor._draft_model is not None:
        trees += [executor._draft_model.params, executor._draft_model.cache]
    trees.append(executor._few_rows_params)
    # What the copies for steps of few rows share with the parameters counts once.
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(trees)}
    return sum(leaf.nbytes for leaf in leaves.values())


@pytest.mark.parametrize("dtype", [DataType.FLOAT32, DataType.BFLOAT16])
@pytest.mark.parametrize("kind", ["dense", "moe", "mamba2 beside attention"])
def test_a_plan_is_what_an_engine_takes(kind, dtype):
    is_hybrid = kind not in ("dense", "moe")
    config = hybrids.model(kind) if is_hybrid else model(kind)
    plan = plan_memory(config, ENGINE, dtype)
    with fj.LLM(config, init_params(config, seed=1, dtype=dtype.value), engine=ENGINE) as llm:
        assert plan.total == pytest.approx(held(llm), rel=0.01)
        assert plan.kv == llm.engine.kv
    assert (plan.states > 0) == is_hybrid


def test_both_models_of_a_draft_count(tmp_path):
    config = model("dense")
    path = write_llama(tmp_path, config, init_params(config, seed=1))
    engine = replace(ENGINE, speculative=path)
    plan = plan_memory(config, engine, DataType.FLOAT32)
    assert plan.draft_weights == plan.weights
    assert plan.cache == 2 * plan_memory(config, ENGINE, DataType.FLOAT32).cache
    with fj.LLM(config, init_params(config, seed=1), engine=engine) as llm:
        assert plan.total == pytest.approx(held(llm), rel=0.01)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_the_largest_step_takes_what_its_program_says(batch_invariant):
    """Compiled beside a cache of its real size, and with weights."""
    config, engine = model("dense"), replace(ENGINE, batch_invariant=batch_invariant)
    plan = plan_memory(config, engine, DataType.FLOAT32, compiles=True)
    with fj.LLM(config, init_params(config, seed=1), engine=engine) as llm:
        executor = llm.engine.executor
        most = max(shape.tokens for shape in executor.shapes)
        large = [shape for shape in executor.shapes if 2 * shape.tokens >= most]
        steps = [executor.memory_analysis(shape).temp_size_in_bytes for shape in large]
    assert plan.step == pytest.approx(max(steps), rel=0.1)
    assert plan.total == plan.weights + plan.copies + plan.cache + plan.slots + plan.step


def test_weights_that_do_not_fit_are_refused_before_they_are_read(monkeypatch):
    config = model("dense")
    needed = weight_bytes(config, DataType.FLOAT32)
    check_weights_fit(config, DataType.FLOAT32, needed)
    check_weights_fit(config, DataType.FLOAT32, None)
    rounded = weight_bytes(config, DataType.FLOAT32, "int8")
    check_weights_fit(config, DataType.FLOAT32, rounded, "int8")
    with pytest.raises(fj.ResourceExhausted) as refused:
        check_weights_fit(config, DataType.FLOAT32, needed - 1)
    message = str(refused.value)
    assert f"the weights take {needed:,} bytes in float32 and {needed - 1:,} are free" in message
    assert f"with dtype='bfloat16' they take {needed // 2:,}" in message
    assert f"with EngineConfig(quantization='int8') they take {rounded:,}" in message
    assert "smaller model" not in message
    with pytest.raises(fj.ResourceExhausted, match="free memory, or use a smaller model"):
        check_weights_fit(config, DataType.BFLOAT16, 1000)
    with pytest.raises(fj.ResourceExhausted, match="nothing takes less"):
        check_weights_fit(config, DataType.BFLOAT16, 1000, "int4")

    monkeypatch.setattr(memory, "device_info", lambda: replace(device_info(), free_bytes=10**7))
    monkeypatch.setattr("ferrum_jax.runtime.llm.load_model", lambda *a, **k: pytest.fail("loads"))
    with pytest.raises(fj.ResourceExhausted, match="21,902,336 bytes in float32 and 10,000,000"):
        fj.LLM.load("demo")


def test_a_cache_that_does_not_fit_beside_the_weights_is_refused(monkeypatch):
    """With the settings that would fit."""
    config = model("dense")
    free = weight_bytes(config, DataType.FLOAT32) + 20_000
    monkeypatch.setattr(memory, "device_info", lambda: replace(device_info(), free_bytes=free))
    with pytest.raises(fj.ResourceExhausted, match="set EngineConfig"):
        plan_memory(config, ENGINE, DataType.FLOAT32)


def test_loading_with_progress_shows_the_plan(capsys):
    with fj.LLM.load(DEMO_MODEL, engine=ENGINE, progress=True):
        pass
    shown = capsys.readouterr().err
    assert (
        "memory: weights 21.9 MB + copies for decoding 17.69 MB + cache 3.244 MB + slots" in shown
    )
    assert " free" in shown


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (438_100_000, "438.1 MB"),
        (2.5e15, "2500 TB"),
    ],
)
def test_bytes_are_read_in_powers_of_ten(count, text):
    assert bytes_text(count) == text
