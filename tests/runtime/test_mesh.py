"""A model over several devices: the same numbers, each device with its part.

Devices are virtual ones of the CPU, in a process that is told so before jax starts; and two real
processes that run one model together.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.families import read_config
from ferrum_jax.models.partition import check_divides
from tests.parity.golden import DELTA_RULES, load_case, write_checkpoint
from tests.processes import with_devices

ROOT = Path(__file__).parents[2]
INVARIANT = {"batch_invariant": True}
CASES = {
    "mixtral": INVARIANT | {"quantization": "int4"},
    "qwen3_next": INVARIANT,
    "demo": INVARIANT | {"quantization": "int8", "kv_dtype": "int8"},
}
NUM_QUANTIZED = {"mixtral": 5 * 3, "qwen3_next": 0, "demo": 4 * 6}
MORE = ("deepseek_v2", "gemma4_text", "gpt_oss", "kimi_linear")
TOLERANCE = 1e-5
LOOSER = dict.fromkeys(DELTA_RULES, 5e-5) | {"demo": 1e-3}
"""Delta rules round more; and in an int8 cache a last bit may move a key or a value by a step."""


def compared(name, num_devices, settings, directory):
    """What `mesh_cases` found; the numbers are checked."""
    results = directory / "results"
    subprocess.run(
        [sys.executable, "-m", "tests.runtime.mesh_cases",
         results, name, str(num_devices), json.dumps(settings)],
        cwd=ROOT,
        env=with_devices(8),
        check=True,
    )  # fmt: skip
    found = json.loads(results.read_text())
    tolerance = LOOSER.get(name, TOLERANCE)
    assert found["same"], name
    for kind in ("logits", "logprobs", "captures"):
        assert found.get(kind, 0.0) <= tolerance, (name, kind, found[kind])
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.one_jax if name != "mixtral" else ()) for name in CASES],
)
def test_two_devices_give_the_numbers_of_one(name, tmp_path):
    """Dense logits, logprobs and tokens; each device has half of the pages."""
    found = compared(name, 2, CASES[name], tmp_path)
    assert found["pages"] == 2.0
    assert found["num_quantized"] == NUM_QUANTIZED[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", MORE)
def test_numbers_of_more_types(name, tmp_path):
    compared(name, 2, INVARIANT, tmp_path)


def test_eight_devices_give_the_numbers_of_one(tmp_path):
    """Captures and edits too; what is divided, and what a step sends."""
    found = compared("wide_llama", 8, {"also": ["edits", "captures"]}, tmp_path)
    # Per layer qkv, o, gate_up and down of six; besides the embedding and the head of three.
    layers = (len(found["params"]) - 3) // 6
    assert sorted(found["params"]) == [1.0] * (2 * layers + 1) + [8.0] * (4 * layers + 2)
    assert found["pages"] == 8.0
    # Two sums a layer and the embedding's; no weights. What else goes around is of sampling, and
    # has no model width.
    for shape, sent in found["sends"].items():
        tokens, rows = map(int, shape.split("x"))
        sums = [s for s in sent if s == f"all-reduce f32[{tokens},{found['width']}]"]
        assert len(sums) == 2 * layers + 1
        for other in set(sent) - set(sums):
            kind, array = other.split(" ", 1)
            numbers = [int(n) for n in array.split("[")[1].rstrip("])").split(",") if n]
            # Logits of the sampled rows, or of the scored ones, are gathered; the rest is small.
            assert kind == "all-reduce" or numbers in ([rows, 96], [64, 96]), other
            assert kind == "all-gather" or np.prod(numbers) <= 64, other


def test_two_processes_run_one_model(tmp_path):
    write_checkpoint(load_case("mixtral"), tmp_path / "model")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.runtime.mesh_process", str(tmp_path), port]
    environment = with_devices(1)
    processes = [
        subprocess.Popen([*command, str(index)], cwd=ROOT, env=environment) for index in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2))
    assert first == second
    assert (first["devices"], first["local"]) == (2, 1)
    engine = fj.EngineConfig(
        max_num_seqs=4, max_num_batched_tokens=64, max_model_len=128, num_pages=64
    )
    with fj.LLM.load(tmp_path / "model", engine=engine) as llm:
        params = fj.SamplingParams(max_tokens=12, temperature=0, logprobs=0, ignore_eos=True)
        alone = [o.outputs[0] for o in llm.generate([[5, 9, 3, 7, 4, 11], [8, 1, 2]], params)]
    assert first["tokens"] == [output.token_ids for output in alone]
    for logprobs, output in zip(first["logprobs"], alone, strict=True):
        expected = [t[i].logprob for t, i in zip(output.logprobs, output.token_ids, strict=True)]
        np.testing.assert_allclose(logprobs, expected, atol=TOLERANCE)


def test_a_mesh_of_one_device():
    """Everything of a mesh but the other devices."""
    small = {"max_num_seqs": 1, "max_num_batched_tokens": 16, "max_model_len": 64}
    params = fj.SamplingParams(max_tokens=5, temperature=0)
    alone, divided = (
        fj.LLM.load("demo", engine=fj.EngineConfig(**small, mesh=mesh)) for mesh in (None, 1)
    )
    texts = [
        llm.generate("The for statement", params)[0].outputs[0].token_ids
        for llm in (alone, divided)
    ]  # fmt: skip
    assert texts[0] == texts[1]
    executor = divided.engine.executor
    assert executor._few_rows_params is executor._params, "steps of few rows have the divided ones"


def test_sizes_that_do_not_divide():
    config = read_config(load_case("gpt2").config)
    with pytest.raises(fj.ConfigError, match=r"mesh = \(2,\) cannot divide.*kv heads = 3 is no"):
        check_divides(config, 2)
    config = read_config(load_case("mixtral").config)
    with pytest.raises(fj.ConfigError, match="kv heads = 2, experts = 4 are no multiple of 3"):
        check_divides(config, 3)


def test_more_devices_than_there_are():
    count = 2 * jax.device_count()
    wanted = rf"asks for {count} devices.*xla_force_host_platform_device_count={count}"
    engine = fj.EngineConfig(mesh=(count,))
    with pytest.raises(fj.DeviceError, match=wanted):
        fj.LLM.load("demo", engine=engine)


def test_the_first_device_of_a_mesh():
    count = jax.device_count()
    engine = fj.EngineConfig(mesh=1, first_device=count)
    with pytest.raises(fj.DeviceError, match=f"asks for 1 devices behind the first {count} and"):
        fj.LLM.load("demo", engine=engine)
    with pytest.raises(fj.ConfigError, match="first_device = 1 is of a mesh, and there is none"):
        fj.EngineConfig(first_device=1)


@pytest.mark.parametrize("mesh", [0, -1, "2", 1.5, True, (), (2.0,), (0,)])
def test_a_mesh_that_is_none(mesh):
    with pytest.raises(fj.ConfigError, match=r"EngineConfig\.mesh is .*number of devices"):
        fj.EngineConfig(mesh=mesh)


def test_what_runs_on_one_device_only(tmp_path):
    with pytest.raises(fj.UnsupportedError, match=r"\(2, 4, 1\) has 3 axes; there are two"):
        fj.EngineConfig(mesh=(2, 4, 1))
    with pytest.raises(fj.UnsupportedError, match=r"\(2, 4\) is of 2 replicas.*fj.Replicas.load"):
        fj.LLM.load("demo", engine=fj.EngineConfig(mesh=(2, 4)))
    drafts = write_checkpoint(load_case("llama"), tmp_path)
    engine = fj.EngineConfig(mesh=1, speculative=str(drafts))
    with pytest.raises(fj.UnsupportedError, match="a model that drafts runs on one device"):
        fj.LLM.load("demo", engine=engine)
