"""Measures how far every golden case is from transformers, and writes `docs/accuracy.md`.

    python -m tests.parity.error_table [--jobs 2] [--records FILE]

Of each case: the logits of one full forward; log-probabilities of the same sequences and a greedy
text by an engine with pages of 4 tokens, in chunks of at most 16, three requests in one batch.
Programs are compiled as they are for use (the tests compile them with few optimisations). What
transformers computes is in the golden files; see `make_reference.py` and its neighbours. It takes
half an hour on two idle cores, nearly all of it for compiling; with `--records` each case is noted
in a file as it is measured, and one that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ferrum_jax as fj
from ferrum_jax.models.families import FAMILIES
from ferrum_jax.runtime.record import environment
from tests.parity import test_bfloat16 as bfloat16
from tests.parity import test_double as double
from tests.parity.golden import Golden, case_names, load_case, tolerance, write_checkpoint

OUT = Path(__file__).parents[2] / "docs" / "accuracy.md"
ENGINE = fj.EngineConfig(page_size=4, num_pages=80, max_num_seqs=3, max_num_batched_tokens=16)
UNCACHED = "llama_rope_dynamic_beyond"
"""Its rope turns every key anew at each step, which no cache does."""


@dataclass(frozen=True)
class CaseErrors:
    """What was measured of one case; None where it has no such figure.

    logits: largest |difference| of a logit, of both sequences.
    logprobs: the same of the engine's log-probabilities of the sequences' own tokens.
    greedy: whether the engine's greedy text is transformers', token by token.
    commit: of the code that was measured; with a + where files differed from it.
    """

    name: str
    model_type: str
    bar: float
    logits: float
    logprobs: float | None
    greedy: bool | None
    commit: str


def measure(name: str) -> CaseErrors:
    """Loads a case and runs it; what was compiled is dropped afterwards."""
    golden = load_case(name)
    with tempfile.TemporaryDirectory() as directory:
        llm = fj.LLM.load(write_checkpoint(golden, directory))
    pairs = zip(golden.sequences, golden.logits, strict=True)
    logits = max(float(np.abs(llm.logits(ids.tolist()) - x).max()) for ids, x in pairs)
    logprobs, greedy = _engine_errors(golden, llm)
    jax.clear_caches()
    bar = tolerance(golden)
    return CaseErrors(name, golden.model_type, bar, logits, logprobs, greedy, _commit())


def _commit() -> str:
    where = environment()
    return (where["commit"] or "unknown")[:9] + ("+" if where["dirty"] else "")


def _engine_errors(golden: Golden, llm: fj.LLM) -> tuple[float | None, bool | None]:
    """The error of the log-probabilities, and whether the greedy text is the same."""
    if golden.name == UNCACHED:
        return None, None
    text = fj.SamplingParams(temperature=0, max_tokens=len(golden.greedy), ignore_eos=True)
    if _depends_on_length(llm.config):
        # An engine chooses such a rope once, by the longest sequence that it may hold; the golden
        # sequences are each computed by their own.
        longest = len(golden.prompt) + len(golden.greedy)
        engine = replace(ENGINE, max_model_len=longest)
        with fj.LLM(llm.config, llm.params, engine=engine) as runner:
            out = runner.generate([golden.prompt.tolist()], text)[0]
        return None, out.outputs[0].token_ids == golden.greedy.tolist()
    scored = fj.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    # Scored as well, which costs no other program.
    text = replace(text, prompt_logprobs=0)
    prompts = [ids.tolist() for ids in (*golden.sequences, golden.prompt)]
    with fj.LLM(llm.config, llm.params, engine=ENGINE) as runner:
        *scores, out = runner.generate(prompts, [scored, scored, text])
    errors = []
    for ids, logits, score in zip(golden.sequences, golden.logits, scores, strict=True):
        expected = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
        ours = [
            entry[token].logprob
            for token, entry in zip(ids[1:].tolist(), score.prompt_logprobs[1:], strict=True)
        ]
        errors.append(np.abs(expected[np.arange(len(ids) - 1), ids[1:]] - ours).max())
    return float(max(errors)), out.outputs[0].token_ids == golden.greedy.tolist()


def _depends_on_length(config: fj.ModelConfig) -> bool:
    ropes = [getattr(layer.attention, "rope", None) for layer in config.layers]
    return any(rope is not None and rope.scaling.depends_on_length for rope in ropes)


def measure_all(names: list[str], jobs: int, records: Path | None) -> list[CaseErrors]:
    """All cases in the order of `names`, with a line of progress for each that is measured."""
    found = {} if records is None else read_records(records)
    missing, start = [name for name in names if name not in found], time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_use_cpu) as pool:
        for number, errors in enumerate(pool.map(measure, missing), 1):
            found[errors.name] = errors
            took = time.monotonic() - start
            print(f"[{number}/{len(missing)}] {took:.0f} s {errors}", flush=True)
            if records is not None:
                with records.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(errors)) + "\n")
    return [found[name] for name in names]


def read_records(path: Path) -> dict[str, CaseErrors]:
    """What a file of records holds, by the cases' names; nothing where there is none yet."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {(errors := CaseErrors(**json.loads(line))).name: errors for line in lines}


def _use_cpu() -> None:
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")


def type_rows(found: list[CaseErrors]) -> list[str]:
    """A line of Markdown for each model type."""
    lines = [
        "| model type | cases | logits | bar | of it | worst case | engine logprobs | greedy |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for model_type in sorted({errors.model_type for errors in found}):
        cases = [errors for errors in found if errors.model_type == model_type]
        worst = max(cases, key=lambda errors: errors.logits)
        logprobs = max((e.logprobs for e in cases if e.logprobs is not None), default=None)
        texts = [e.greedy for e in cases if e.greedy is not None]
        cells = [
            model_type,
            str(len(cases)),
            f"{worst.logits:.1e}",
            f"{worst.bar:.0e}",
            f"{100 * worst.logits / worst.bar:.0f} %",
            worst.name,
            "" if logprobs is None else f"{logprobs:.1e}",
            f"{sum(texts)}/{len(texts)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def double_rows() -> list[str]:
    """A line for each case that has float64 logits."""
    columns = [
        f"{size}: {who}" for size in ("largest", "rms") for who in ("ours", "theirs", "ratio")
    ]
    lines = [f"| case | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in double.NAMES:
        with tempfile.TemporaryDirectory() as directory:
            llm = fj.LLM.load(write_checkpoint(load_case(name), directory))
        ours, theirs = double.float64_errors(name, llm)
        cells = [name]
        for size in (double.largest, double.rms):
            a, b = float(size(ours)), float(size(theirs))
            cells += [f"{a:.1e}", f"{b:.1e}", f"{a / b:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
        jax.clear_caches()
    return lines


def bfloat16_rows() -> list[str]:
    """A line for the demo model and one for each case."""
    lines = ["| model | ours (nats) | transformers | ratio |", "|---|---:|---:|---:|"]
    measured = {"demo": (bfloat16.demo_kls(), bfloat16.REFERENCE["demo"]["kl"])}
    for name, found in bfloat16.REFERENCE["cases"].items():
        measured[name] = bfloat16.case_kls(name), found["kl"]
        jax.clear_caches()
    for name, (ours, theirs) in measured.items():
        a, b = float(np.mean(ours)), float(np.mean(theirs))
        lines.append(f"| {name} | {a:.1e} | {b:.1e} | {a / b:.2f} |")
    return lines


def page(found: list[CaseErrors], exact: list[str], rounded: list[str]) -> str:
    """The text of `docs/accuracy.md`."""
    where = environment("python -m tests.parity.error_table")
    versions = where["versions"]
    golden = [load_case(errors.name) for errors in found]
    oracle = ", ".join(sorted({g.transformers for g in golden}))
    torch = ", ".join(sorted({g.torch for g in golden}))
    engines = [errors for errors in found if errors.greedy is not None]
    equal = sum(errors.greedy is True for errors in engines)
    commits = sorted({errors.commit for errors in found} | {_commit()})
    parts = [
        INTRODUCTION.format(
            command=where["command"],
            date=datetime.now(UTC).date().isoformat(),
            commit=", ".join(commits),
            jax=versions["jax"],
            python=versions["python"],
            oracle=oracle,
            torch=torch,
            device=where["device"]["kind"],
        ),
        LOGITS.format(cases=len(found), types=len(FAMILIES), equal=equal, engines=len(engines)),
        "\n".join(type_rows(found)),
        DOUBLE,
        "\n".join(exact),
        BFLOAT16,
        "\n".join(rounded),
        LOADING,
    ]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
# How accurate it is

Measured by `{command}`
({date}, jax {jax}, Python {python}, {device}; commit {commit}, a + where files differed from it)
against what transformers {oracle} (torch {torch}, CPU, eager attention, one full
forward without a cache) stored in the golden files of `tests/parity`. The weights are random, small
and the same in both; `tests/parity` checks all of it against the bars."""

LOGITS = """\
## Every model type, in float32

{cases} checkpoints of {types} model types, every option of a config in one of them. *logits*: the
largest difference of any logit, of two sequences each, and the case that has it. *engine logprobs*:
the largest error of the engine's log-probabilities of the same sequences, through a paged cache, in
chunks of at most 16 tokens, three requests in a batch; left out where a rope depends on the
sequence's length, which an engine holds fixed. *greedy*: texts of the engine that are
transformers' token by token: {equal} of {engines} (the case without one has a dynamic rope beyond
its trained length, which turns every key anew at each step, and no cache does). Delta rules round
far more than attention does, in transformers itself too: their bar is wider."""

DOUBLE = """\
## Against float64

What the logits are in float64, every operation of transformers in float64, and how far from it both
are in float32. The bar: at most twice transformers' own error (*theirs*). The largest is often
that of one badly conditioned token (in mamba2: the 13th of the first sequence, for both), and
it moves by a factor of two with the compiler's choices; the root mean square does not."""

BFLOAT16 = """\
## bfloat16

The mean over positions of KL(float32 || bfloat16), ours and transformers' own, on the same inputs
and from weights that bfloat16 represents exactly: the rounding of activations alone. The bar: a
ratio of 1.2. Norms, rope, attention scores, softmax and logits are in float32 here; transformers
rounds scores and logits to bfloat16. The demo model runs on 768 tokens of the standard library, the
others on three sequences, each with weights of its own seed. Models with a router are left out: a
flip of a choice moves a logit by more than all rounding together."""

LOADING = """\
## Loading

Time and peak memory of loading 1.1 billion parameters: `experiments/011_loading`."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes, one case each at a time")
    parser.add_argument(
        "--records", type=Path, help="a file of what was measured, read and added to"
    )
    options = parser.parse_args()
    _use_cpu()
    found = measure_all(case_names(), options.jobs, options.records)
    OUT.write_text(page(found, double_rows(), bfloat16_rows()), encoding="utf-8")
    print(f"{OUT}: {len(found)} cases", flush=True)


if __name__ == "__main__":
    main()
