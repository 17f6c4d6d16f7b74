"""Texts that are continued, and how."""

import sys
from dataclasses import dataclass
from pathlib import Path

from config import Plan

import ferrum_jax as fj

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out


@dataclass(frozen=True)
class Workload:
    """Prompts, and a temperature; every completion has the same number of tokens."""

    name: str
    prompts: list[list[int]]
    params: fj.SamplingParams


def workloads(llm: fj.LLM, plan: Plan) -> list[Workload]:
    """New text, greedy and sampled; and text that stands in the prompt already, as where a model
    quotes or edits: the beginning of a document behind the document."""
    texts = [
        ids
        for ids in read_held_out(llm, plan.prompt + 3 * plan.generated).ids
        if len(ids) == plan.prompt + 3 * plan.generated
    ][: plan.documents]
    new = [ids[: plan.prompt] for ids in texts]
    again = [[*ids[: plan.prompt + plan.generated], *ids[1 : plan.prompt]] for ids in texts]
    params = fj.SamplingParams(max_tokens=plan.generated, ignore_eos=True, seed=plan.seed)
    greedy = fj.SamplingParams(max_tokens=plan.generated, ignore_eos=True, temperature=0.0)
    return [
        Workload("new text, greedy", new, greedy),
        Workload("new text, temperature 1", new, params),
        Workload("text of the prompt, greedy", again, greedy),
    ]
