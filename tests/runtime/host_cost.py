"""CPU seconds of the host for a decode step, as JSON; run by `test_host_cost.py`.

In a process of its own: tests check every call's types, and that is not what is measured.
"""

import json
import time

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.families import read_config
from ferrum_jax.types import ScheduledChunk
from tests.parity.golden import load_case

STEPS = 40
FEW, MANY = 64, 256


def step_seconds(num_seqs):
    """CPU seconds of a decode step: the least of 40, since what else the machine does adds."""
    raw = load_case("llama").config | {"num_hidden_layers": 1}
    config = read_config(raw)
    engine = fj.EngineConfig(
        max_num_seqs=num_seqs, max_num_batched_tokens=512, max_model_len=96, num_pages=2048
    )
    with fj.LLM(config, init_params(config), engine=engine) as llm:
        params = fj.SamplingParams(max_tokens=STEPS + 30, temperature=0, ignore_eos=True)
        for index in range(num_seqs):
            llm.engine.add([5, 6, 7 + index % 50], params)
        while len(llm.engine.scheduler.running) < num_seqs:
            llm.engine.step()
        llm.engine.step()
        llm.engine.step()
        compiled, seconds = set(llm.compilations), []
        for _ in range(STEPS):
            start = time.thread_time()
            llm.engine.step()
            seconds.append(time.thread_time() - start)
        assert set(llm.compilations) == compiled
        return min(seconds)


def object_seconds():
    """CPU seconds of making one small object: what a row of a step costs is a few of them."""
    seconds = []
    for _ in range(15):
        start = time.thread_time()
        [ScheduledChunk(None, 0, 1, True) for _ in range(2000)]
        seconds.append(time.thread_time() - start)
    return min(seconds) / 2000


if __name__ == "__main__":
    found = {"few": step_seconds(FEW), "many": step_seconds(MANY), "one": object_seconds()}
    print(json.dumps(found | {"rows": MANY - FEW}))
