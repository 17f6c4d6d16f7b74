"""Replicas give what one LLM gives, each from its own devices, and share the prompts out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ferrum_jax as fj
from tests.processes import with_devices
from tests.runtime.models import idle, make_llm
from tests.runtime.replicas_run import MESHES, PROMPTS

ROOT = Path(__file__).parent.parent.parent
ENGINE = fj.EngineConfig(page_size=4, num_pages=64, max_model_len=64, max_num_seqs=2,
                         max_num_batched_tokens=16)  # fmt: skip
GREEDY = fj.SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)


@pytest.mark.parametrize(
    "mesh", [pytest.param("3 of 1", marks=pytest.mark.one_jax), pytest.param("2 of 2")]
)
def test_they_give_what_one_gives(mesh, tmp_path):
    """Each from its own devices, with a part of the work."""
    results = tmp_path / "results"
    command = [sys.executable, "-m", "tests.runtime.replicas_run", results, mesh]
    subprocess.run(command, cwd=ROOT, env=with_devices(8), check=True)
    found = json.loads(results.read_text())
    assert found["prompts"] == PROMPTS
    assert all(found["same"]), found["same"]
    assert found["scores"] <= 1e-5
    replicas, size = MESHES[mesh]
    first = range(1, 1 + replicas * size, size)
    assert found["devices"] == [list(range(i, i + size)) for i in first]
    assert all(steps > 0 for steps in found["steps"])


@pytest.fixture(scope="module")
def replicas():
    """Two on one device: all but the devices."""
    first = make_llm("dense", ENGINE)
    return fj.Replicas([first, first.alike(first.config, first.params)])


def test_a_prompt_goes_where_there_is_least_to_do(replicas):
    before = [sum(llm.metrics.snapshot().requests.values()) for llm in replicas.llms]
    prompts = [list(range(3, 33)), [5], [6], [7], [8]]
    outputs = replicas.generate(prompts, GREEDY)
    after = [sum(llm.metrics.snapshot().requests.values()) for llm in replicas.llms]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 4]
    assert [output.prompt_token_ids for output in outputs] == prompts
    expected = replicas.llms[0].generate(prompts, GREEDY)
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in expected]


def test_a_refused_prompt_leaves_nothing_behind(replicas):
    with pytest.raises(fj.RequestError, match=r"prompt 2: .*token id 9999"):
        replicas.generate([[5], [6], [9999]], GREEDY)
    with pytest.raises(fj.RequestError, match="2 taps for 3 prompts"):
        replicas.generate([[5], [6], [7]], GREEDY, taps=[None, None])
    assert all(map(idle, replicas.llms))
    assert len(replicas.generate([], GREEDY)) == 0


def test_an_interrupt_leaves_nothing_behind(replicas, monkeypatch):
    second = replicas.llms[1].engine
    monkeypatch.setattr(second, "step", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replicas.generate([[5], [6]], GREEDY)
    monkeypatch.undo()
    assert all(map(idle, replicas.llms))


def test_what_is_refused():
    with pytest.raises(fj.ConfigError, match="there is no replica"):
        fj.Replicas([])
    with pytest.raises(fj.ConfigError, match=r"mesh is \(2,\); replicas need two sizes"):
        fj.Replicas.load("demo", engine=fj.EngineConfig(mesh=2))
    with pytest.raises(fj.DeviceError, match="asks for 4096 devices"):
        fj.Replicas.load("demo", engine=fj.EngineConfig(mesh=(1024, 4)))


def test_it_is_named_and_closed(replicas):
    assert len(replicas) == 2
    assert repr(replicas).startswith("Replicas(2 x LLM(llama, 2 layers")
    with replicas as same:
        assert same is replicas
    assert replicas.llms[0].compilations == {}
