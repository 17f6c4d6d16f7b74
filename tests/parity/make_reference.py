"""Writes the golden files: what transformers computes for each case of `cases.py`.

    python tests/parity/make_reference.py [case ...]

Runs in an environment of its own that has torch and transformers; nothing else in the project
imports either. For each case it builds the model from its config, lets transformers save it once
to learn the names and shapes of its *checkpoint*, writes a checkpoint of `make_tensor` values
under those names, loads that with `from_pretrained`, and stores the logits of two sequences and
one greedy continuation. Each number comes from one full forward without a cache, in float32, with
eager attention and eager experts: the cached decode of transformers is another computation.

A seed is taken only if the case is a fair test: logits of a sensible scale, no greedy step and no
router choice close to a tie, so that float32 rounding in another order cannot flip it.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cases import CASES, Case
from random_weights import make_tensor, make_tokens
from safetensors import safe_open
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

GOLDEN = Path(__file__).parent / "golden"
MIN_GREEDY_MARGIN = 1e-3
MIN_ROUTER_GAP = 1e-4
LOGIT_STD = (0.3, 10.0)
MIN_GREEDY_VARIETY = 4
SEEDS_TO_TRY = 50
DERIVED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
"""Buffers that transformers saves although the config alone decides them; left out here."""
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Checkpoint:
    """What lies in a model directory: config.json and the (shape, dtype) of each tensor."""

    config: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Reference:
    """The outputs for one seed, and the measures by which the seed is judged."""

    sequences: list[np.ndarray]
    logits: list[np.ndarray]
    prompt: np.ndarray
    greedy: np.ndarray
    greedy_margin: float
    router_gap: float | None
    logit_std: float

    def fault(self) -> str | None:
        """Why this seed is no fair test, or None."""
        low, high = LOGIT_STD
        if not low < self.logit_std < high:
            return f"logit std {self.logit_std:.3g} is outside ({low}, {high})"
        if self.greedy_margin < MIN_GREEDY_MARGIN:
            return f"greedy margin {self.greedy_margin:.2g} < {MIN_GREEDY_MARGIN}"
        if self.router_gap is not None and self.router_gap < MIN_ROUTER_GAP:
            return f"router gap {self.router_gap:.2g} < {MIN_ROUTER_GAP}"
        if len(set(self.greedy.tolist())) < MIN_GREEDY_VARIETY:
            return f"greedy run repeats itself: {self.greedy.tolist()}"
        return None


class PromoteToFloat64(TorchFunctionMode):
    """Turns each explicit float32 in torch calls into float64.

    `model.double()` alone is not exact: norms, softmax, rope and router cast to float32 by name.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def save_untrained(case: Case, directory: Path) -> Checkpoint:
    """Lets transformers write a checkpoint of the case, and reads its layout."""
    if case.hub_style:
        hub_config = {"model_type": case.model_type, **case.config}
        (directory / "config.json").write_text(json.dumps(hub_config))
        config = AutoConfig.from_pretrained(directory)
    else:
        config = AutoConfig.for_model(case.model_type, **case.config)
    dtype = getattr(torch, case.dtype)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=case.attention
    )
    model.save_pretrained(directory)
    saved_config = json.loads((directory / "config.json").read_text())
    if case.hub_style:
        saved_config = {
            "architectures": saved_config["architectures"],
            "model_type": case.model_type,
            **case.config,
            "torch_dtype": case.dtype,
        }
        (directory / "config.json").write_text(json.dumps(saved_config))
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        tensors = {
            hub_name(name): (tuple(s.get_shape()), TORCH_DTYPES[s.get_dtype()])
            for name, s in slices.items()
            if not name.endswith(DERIVED)
        }
    return Checkpoint(saved_config, tensors)


def hub_name(name: str) -> str:
    """A tensor's name on the hub, where transformers loads that name and saves another.

    Kimi Linear: it renames the experts' `block_sparse_moe`, and on the way back a dense layer's
    `mlp` as well.
    """
    return re.sub(r"block_sparse_moe\.(?=(gate|up|down)_proj\.)", "mlp.", name)


def load_seeded(case: Case, checkpoint: Checkpoint, directory: Path, seed: int) -> torch.nn.Module:
    """Fills the checkpoint with the weights of `seed` and loads it as float32."""
    tensors = {
        name: torch.from_numpy(make_tensor(name, shape, seed, norm_low=case.norm_low)).to(
            getattr(torch, dtype)
        )
        for name, (shape, dtype) in checkpoint.tensors.items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    model, info = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation=case.attention,
        experts_implementation="eager",
        output_loading_info=True,
    )
    wrong = {kind: _unexplained(names) for kind, names in info.items() if _unexplained(names)}
    if wrong:
        raise RuntimeError(f"the checkpoint did not load cleanly: {wrong}")
    return model.eval()


def _unexplained(names: Any) -> list[Any]:
    return [name for name in names if not str(name).endswith(DERIVED)]


@torch.no_grad()
def forward(model: torch.nn.Module, ids: np.ndarray) -> torch.Tensor:
    """Logits [T, V] of one uncached forward of a fresh copy of the model.

    A copy, because dynamic rope keeps the frequencies of the longest sequence it has seen, and a
    later, shorter sequence would be computed with those.
    """
    fresh = copy.deepcopy(model)
    return fresh(torch.from_numpy(ids).long()[None], use_cache=False).logits[0]


def greedy_continuation(model: torch.nn.Module, prompt: np.ndarray, count: int):
    """`count` argmax tokens, each from a full forward, and the smallest top-1 to top-2 margin."""
    ids, margin = prompt, float("inf")
    for _ in range(count):
        top = torch.topk(forward(model, ids)[-1], 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids = np.append(ids, np.int32(top.indices[0]))
    return ids[len(prompt) :].astype(np.int32), margin


@contextmanager
def router_gaps(model: torch.nn.Module) -> Iterator[list[float]]:
    """Collects, per router call, the smallest gap between the last chosen and the first rejected
    router logit (of the corrected scores, and of the groups, where the router chooses by those)."""
    gaps: list[float] = []

    def hook(router, args, output):
        if hasattr(router, "e_score_correction_bias"):
            gaps.append(_corrected_gap(router, output[0]))
        else:
            gaps.append(_plain_gap(router, args, output))

    names = ("topkrouter", "llama4router", "gemma4textrouter")
    routers = [m for m in model.modules() if type(m).__name__.lower().endswith(names)]
    handles = [router.register_forward_hook(hook) for router in routers]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def _gap(scores: torch.Tensor, k: int) -> float:
    """The smallest distance over the rows between the k-th and the next score; inf without one."""
    ordered = scores.sort(dim=-1, descending=True).values
    if k >= ordered.shape[-1]:
        return float("inf")
    return float((ordered[..., k - 1] - ordered[..., k]).min())


def _plain_gap(router: torch.nn.Module, args: tuple, output: tuple) -> float:
    """The gap of a router whose correction bias, if there is any, is not its own attribute."""
    if hasattr(router, "moe_statics"):  # ernie4_5_moe
        return _gap(router.moe_statics(output[0].float().softmax(-1)), router.top_k)
    if len(args) == 2:  # minimax_m2 hands the bias in
        return _gap(output[0].float().sigmoid() + args[1], router.top_k)
    if getattr(router, "topk_method", None) == "group_limited_greedy":  # deepseek_v2
        return _limited_gap(router, output[0])
    if type(router).__name__ == "Gemma4TextRouter":
        return _gap(output[0].log(), router.config.top_k_experts)
    by_score = type(router).__name__ == "Llama4Router"
    return _gap(output[by_score], router.top_k)


def _limited_gap(router: torch.nn.Module, logits: torch.Tensor) -> float:
    """The smallest gap between groups by their best logit, and between the experts in the kept."""
    grouped = logits.unflatten(-1, (router.num_group, -1))
    best = grouped.max(-1).values
    kept = best >= best.topk(router.topk_group, dim=-1).values[..., -1:]
    allowed = grouped.masked_fill(~kept[..., None], -1e9).flatten(-2)
    return min(_gap(best, router.topk_group), _gap(allowed, router.top_k))


def _corrected_gap(router: torch.nn.Module, logits: torch.Tensor) -> float:
    """The same for a sigmoid router with a correction bias: over its groups, then its experts."""
    scores = logits.float().sigmoid() + router.e_score_correction_bias
    groups = getattr(router, "num_group", None) or 1
    grouped = scores.unflatten(-1, (groups, -1))
    if groups == 1:
        return _gap(scores, router.top_k)
    group_scores = grouped.topk(2, dim=-1).values.sum(-1)
    chosen = group_scores.topk(router.topk_group, dim=-1).indices
    allowed = torch.zeros_like(group_scores).scatter(-1, chosen, 1.0)[..., None].bool()
    allowed_scores = grouped.masked_fill(~allowed, -1e9).flatten(-2)
    return min(_gap(group_scores, router.topk_group), _gap(allowed_scores, router.top_k))


def compute(case: Case, model: torch.nn.Module, seed: int) -> Reference:
    """All stored outputs of the case for one seed."""
    vocab = case.config["vocab_size"]
    sequences = [
        make_tokens(f"sequence{i}", length, vocab, seed) for i, length in enumerate(case.lengths)
    ]
    prompt = make_tokens("prompt", case.prompt_length, vocab, seed)
    with router_gaps(model) as gaps:
        logits = [forward(model, ids).numpy() for ids in sequences]
        greedy, margin = greedy_continuation(model, prompt, case.new_tokens)
    return Reference(
        sequences=sequences,
        logits=logits,
        prompt=prompt,
        greedy=greedy,
        greedy_margin=margin,
        router_gap=min(gaps) if gaps else None,
        logit_std=min(float(x.std()) for x in logits),
    )


def float64_errors(model: torch.nn.Module, reference: Reference) -> dict[str, float]:
    """max |float32 - float64| of the logits in transformers itself.

    fp64_error: against `model.double()`, which still does norms, softmax and rope in float32.
    exact_error: against the same with those in float64 too. The rope frequencies stay the float32
    numbers that both precisions start from, save for dynamic rope, which recomputes them.
    """
    double = copy.deepcopy(model).double()
    plain = [forward(double, ids).numpy() for ids in reference.sequences]
    with PromoteToFloat64():
        exact = [forward(double, ids).numpy() for ids in reference.sequences]
    return {
        "fp64_error": _largest_difference(reference.logits, plain),
        "exact_error": _largest_difference(reference.logits, exact),
    }


def _largest_difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def make_case(case: Case) -> dict[str, Any]:
    """Writes golden/<case>.npz and golden/<case>.json and returns the record in the latter."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        checkpoint = save_untrained(case, directory)
        faults = []
        for seed in range(SEEDS_TO_TRY):
            model = load_seeded(case, checkpoint, directory, seed)
            reference = compute(case, model, seed)
            fault = reference.fault()
            if fault is None:
                break
            faults.append(f"seed {seed}: {fault}")
        else:
            raise RuntimeError(f"{case.name}: no fair seed in {SEEDS_TO_TRY}: {faults}")
        errors = float64_errors(model, reference)
    np.savez_compressed(
        GOLDEN / f"{case.name}.npz",
        sequence0=reference.sequences[0],
        sequence1=reference.sequences[1],
        logits0=reference.logits[0],
        logits1=reference.logits[1],
        prompt=reference.prompt,
        greedy=reference.greedy,
    )
    record = {
        "name": case.name,
        "model_type": case.model_type,
        "seed": seed,
        "rejected_seeds": faults,
        "shards": case.shards,
        "norm_low": case.norm_low,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "logit_std": reference.logit_std,
        "greedy_margin": reference.greedy_margin,
        "router_gap": reference.router_gap,
        **errors,
        "config": checkpoint.config,
        "tensors": {
            name: [dtype, list(shape)] for name, (shape, dtype) in checkpoint.tensors.items()
        },
    }
    (GOLDEN / f"{case.name}.json").write_text(dump(record))
    return record


def dump(record: dict[str, Any]) -> str:
    """JSON with one line per tensor, one per config key and one per other entry."""
    lines = []
    for key, value in record.items():
        if key in ("config", "tensors"):
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def chosen_cases(arguments: list[str], description: str | None, names: Iterable[str]) -> list[str]:
    """The cases that a command line names, or all of `names`; quietens transformers."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("case", nargs="*", help="names from cases/; all of them if none is given")
    chosen = parser.parse_args(arguments).case or list(names)
    unknown = [name for name in chosen if name not in CASES]
    if unknown:
        parser.error(f"unknown cases {unknown}; known: {', '.join(CASES)}")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return chosen


def main(arguments: list[str]) -> None:
    """Makes the named cases, or all of them."""
    names = chosen_cases(arguments, __doc__, CASES)
    GOLDEN.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        start = time.perf_counter()
        record = make_case(CASES[name])
        print(
            f"[{number}/{len(names)}] {name}: seed {record['seed']}"
            f" std {record['logit_std']:.2f} margin {record['greedy_margin']:.1e}"
            f" fp64 {record['fp64_error']:.1e} exact {record['exact_error']:.1e}"
            f" ({time.perf_counter() - start:.1f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
