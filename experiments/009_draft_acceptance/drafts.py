"""The drafts, and the texts on which they are judged."""

import sys
from dataclasses import dataclass
from pathlib import Path

from config import Plan

import ferrum_jax as fj

sys.path.append(str(Path(__file__).parent.parent / "007_weight_rounding"))
from rounding import Rounding, rounded_model


@dataclass(frozen=True, eq=False)
class Draft:
    """A model that drafts."""

    name: str
    llm: fj.LLM
    taps: fj.Taps | None = None
    missing_layers: int = 0
    assumed_cost: float | None = None
    """What a step would cost beside one of the model, where it is not measured."""


def drafts(llm: fj.LLM, plan: Plan) -> list[Draft]:
    """The model without one layer, without its last layers, rounded, and with a window."""
    count = llm.config.num_layers
    found = [Draft(f"without layer {i}", llm, fj.edits.ablate_layer([i]), 1) for i in range(count)]
    for missing in plan.last_layers:
        last = range(count - missing, count)
        taps = fj.edits.ablate_layer(last)
        found.append(Draft(f"without the last {missing} layers", llm, taps, missing))
    for bits in plan.rounded_bits:
        name = f"int{bits} weights"
        rounded = rounded_model(llm, Rounding(name, bits))
        # A decode step at batch 1 is bound by reading the weights, here of 32 bits.
        found.append(Draft(name, rounded, assumed_cost=bits / 32))
    windowed = llm.with_config(fj.edit_layers(llm.config, window=plan.window))
    return [*found, Draft(f"window {plan.window}", windowed, assumed_cost=1.0)]


@dataclass(frozen=True)
class Text:
    """Token ids of some documents, judged from position `start` on."""

    name: str
    ids: list[list[int]]
    start: int


def texts(llm: fj.LLM, documents: tuple[list[int], ...], plan: Plan) -> list[Text]:
    """Held-out text, and the model's own continuations of its beginnings."""
    prompts = [ids[: plan.prompt] for ids in documents]
    common = {"max_tokens": plan.generated, "ignore_eos": True}
    sampled = [fj.SamplingParams(seed=plan.seed + i, **common) for i in range(len(prompts))]
    greedy = fj.SamplingParams(temperature=0.0, **common)
    return [
        Text("held-out", list(documents), 1),
        Text("sampled", _continued(llm, prompts, sampled), plan.prompt),
        Text("greedy", _continued(llm, prompts, greedy), plan.prompt),
    ]


def _continued(llm: fj.LLM, prompts: list[list[int]], params) -> list[list[int]]:
    outputs = llm.generate(prompts, params)
    pairs = zip(prompts, outputs, strict=True)
    return [prompt + list(output.outputs[0].token_ids) for prompt, output in pairs]
