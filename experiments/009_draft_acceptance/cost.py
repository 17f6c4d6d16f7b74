"""What a step of a model with fewer layers costs, beside a step of the whole one."""

import time
from dataclasses import replace

import numpy as np
from config import Plan

import ferrum_jax as fj


def step_costs(llm: fj.LLM, plan: Plan) -> dict[int, list[float]]:
    """By missing layers the ratio of decode time at batch 1: median and quartiles over turns.

    CPU seconds of this process, which other programs on the machine change little.
    """
    models = {missing: _shortened(llm, missing) for missing in (0, 1, *plan.last_layers)}
    params = fj.SamplingParams(max_tokens=plan.generated, temperature=0.0, ignore_eos=True)
    prompt = list(range(3, 3 + plan.prompt))
    seconds: dict[int, list[float]] = {missing: [] for missing in models}
    for turn in range(plan.turns + 1):
        for missing, model in models.items():
            start = time.process_time()
            model.generate([prompt], params)
            if turn:  # the first compiles
                seconds[missing].append(time.process_time() - start)
    for model in models.values():
        model.close()
    whole = np.asarray(seconds.pop(0))
    return {
        missing: np.percentile(np.asarray(found) / whole, (50, 25, 75)).tolist()
        for missing, found in seconds.items()
    }


def _shortened(llm: fj.LLM, missing: int) -> fj.LLM:
    """A model without its last layers."""
    kept = llm.config.num_layers - missing
    config = replace(llm.config, layers=llm.config.layers[:kept])
    params = llm.params.replace(layers=llm.params.layers[:kept])
    return fj.LLM(config, params, llm.tokenizer, engine=llm.engine_config)
