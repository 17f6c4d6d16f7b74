"""The ablations of every head, and the two texts on which they are measured.

Dimension key: M tokens to resample from, N heads, H elements of a head.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from config import Plan

import ferrum_jax as fj
from ferrum_jax.research.sweep import Grid

sys.path.append(str(Path(__file__).parent.parent))
from held_out import HeldOut


def ablations(llm: fj.LLM, documents: HeldOut, plan: Plan) -> Grid:
    """A variant per kind, layer and head."""
    donors = _donor_activations(llm, documents, plan)
    means = {layer: z.mean(axis=0) for layer, z in donors.items()}
    rng = np.random.default_rng(plan.seed)
    chosen = rng.choice(len(donors[0]), plan.samples, replace=False)
    samples = {layer: z[chosen] for layer, z in donors.items()}
    given = {"zero": {}, "mean": {"mean": means}, "resample": {"resample": samples}}

    def variant(kind: str, layer: int, head: int) -> fj.Taps:
        return fj.edits.ablate_heads([(layer, head)], **given[kind])

    heads = llm.config.layers[0].attention.num_heads
    layers = range(llm.config.num_layers)
    return fj.grid(variant, kind=plan.kinds, layer=layers, head=range(heads))


def _donor_activations(llm: fj.LLM, documents: HeldOut, plan: Plan) -> dict[int, np.ndarray]:
    """`z` by layer `[M, N, H]` at the tokens of the documents behind those that are scored."""
    stop = plan.length + plan.donor_length
    parts = [ids[:1] + ids[plan.length : stop] for ids in documents.ids if len(ids) > plan.length]
    found = llm.capture(parts, "z")
    layers = range(llm.config.num_layers)
    return {i: np.concatenate([each["z"][i][1:] for each in found]) for i in layers}


def scored_documents(documents: HeldOut, plan: Plan) -> list[list[int]]:
    """The documents' beginnings."""
    return [ids[: plan.length] for ids in documents.ids]


def metrics(llm: fj.LLM, documents: HeldOut, plan: Plan) -> dict[str, Callable]:
    """By text, what is measured on it."""
    prompts, answers = _repeats(llm, plan)
    return {
        "held-out": fj.bits_per_byte(scored_documents(documents, plan)),
        "repeats": fj.logprob_of(prompts, answers),
    }


def _repeats(llm: fj.LLM, plan: Plan) -> tuple[list[list[int]], list[list[int]]]:
    """Random tokens up to the first repeated one, and the rest of their second copy."""
    assert llm.tokenizer is not None
    special = llm.tokenizer.special_ids | set(llm.eos_token_ids)
    ordinary = np.setdiff1d(np.arange(llm.config.vocab_size), list(special))
    rng = np.random.default_rng(plan.seed + 1)
    bos = llm.encode("a")[:1]
    prompts, answers = [], []
    for _ in range(plan.sequences):
        copy = rng.choice(ordinary, plan.repeat_length, replace=False).tolist()
        prompts.append([*bos, *copy, copy[0]])
        answers.append(copy[1:])
    return prompts, answers
