"""`sweep`: measure variants of a model against it, and go on where an earlier call stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ferrum_jax.research.sweep.describe import describe
from ferrum_jax.research.sweep.divergence import KLFromBaseline
from ferrum_jax.research.sweep.fingerprint import fingerprint
from ferrum_jax.research.sweep.groups import Job, Metric, measure
from ferrum_jax.research.sweep.ledger import Ledger
from ferrum_jax.research.sweep.metrics import ScoredMetric
from ferrum_jax.research.sweep.table import SweepTable
from ferrum_jax.research.sweep.variant import NamedVariant, named_variants, setting_of
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.record import to_json, weights_digest
from ferrum_jax.types import FerrumError, RequestError

MOST_REQUESTS = 512


def sweep(
    llm: LLM,
    variants: Mapping[Any, Any] | Sequence[Any],
    metric: Metric | KLFromBaseline,
    *,
    path: str | PathLike[str] | None = None,
    seed: int | None = None,
    progress: bool = True,
    max_requests: int = MOST_REQUESTS,
) -> SweepTable:
    """Measure variants of a model, each with its difference from the unchanged one.

        heads = fj.grid(lambda layer, head: fj.edits.ablate_heads([(layer, head)]),
                        layer=range(6), head=range(8))
        table = fj.sweep(llm, heads, fj.nll(texts), path="heads.json")
        table.plot("heads.png")

    Edits of one kind are scored as one batch, on one compiled program. Variants with equal configs
    and engine settings share an LLM; one that is made for them is closed afterwards.

    A `FerrumError` of a variant is recorded in its row and the others run; one of the baseline is
    raised, and so is any other error.

    Args:
        variants: a mapping from names to variants, a list of variants, or a `grid`. A variant is a
            `ModelConfig`, `Taps`, an `EngineConfig` or a dict of its fields, an `LLM`, a `Variant`
            of several of these, or None: the baseline, which is measured in any case.
        metric: `nll(texts)`, `bits_per_byte(texts)`, `logprob_of(prompts, answers)`,
            `kl_from_baseline(texts)`, or a function `(llm, taps)` that gives a number, or better
            one for each document: a number alone has no error.
        path: a file that is written after every batch, and read first: rows that it has are not
            measured again, if they measured the same; rows that failed are.
        seed: what your metric and your edits drew from, to be recorded; nothing here draws.
        progress: show a bar by variants.
        max_requests: documents in one scoring batch, over all its variants; a stop loses a batch.

    Raises:
        RequestError: something is no variant or no metric, a name is given twice, or the file at
            `path` measured other weights, another metric, other texts or further variants.
        OSError: `path` cannot be written.
    """
    if isinstance(max_requests, bool) or not isinstance(max_requests, int) or max_requests < 1:
        raise RequestError(f"max_requests is {max_requests!r}; it must be an integer from 1")
    named, axes = named_variants(variants, llm)
    table = SweepTable(
        **_identity(llm, metric, seed),
        rows=(),
        axes=axes,
        config=json.loads(to_json(llm.config)),
        engine=json.loads(to_json(llm.engine_config)),
    )
    ledger = Ledger(table, [n.key for n in named], None if path is None else Path(path))
    measurement = metric.against(llm) if isinstance(metric, KLFromBaseline) else metric
    jobs = [job for job in _jobs(named, llm, table.weights) if not ledger.has(job)]
    with tqdm(
        total=len(named), initial=len(ledger), desc="sweep", unit="variant", disable=not progress
    ) as bar:
        if jobs:
            ledger.begin()
        for outcomes in measure(jobs, measurement, max_requests):
            ledger.add(outcomes)
            bar.update(len(outcomes))
    return ledger.table


def _identity(llm: LLM, metric: Any, seed: int | None) -> dict[str, Any]:
    """What all rows of a table have to share."""
    definition, name, unit = metric, getattr(metric, "__name__", type(metric).__name__), ""
    if isinstance(metric, ScoredMetric | KLFromBaseline):
        name, unit = metric.name, metric.unit
    elif not callable(metric):
        raise RequestError(
            f"{metric!r} is no metric; give fj.nll(texts), fj.bits_per_byte(texts), "
            "fj.logprob_of(prompts, answers), fj.kl_from_baseline(texts) or a function "
            "(llm, taps) -> a number per document"
        )
    if isinstance(metric, ScoredMetric):
        definition = (metric, metric.prompts(llm))
    elif isinstance(metric, KLFromBaseline):  # a row's value depends on the baseline too
        definition = (metric, llm.config, llm.engine_config)
    return {
        "metric": name,
        "unit": unit,
        "definition": fingerprint(definition),
        "weights": weights_digest(llm.params),
        "seed": seed,
    }


def _jobs(named: list[NamedVariant], llm: LLM, weights: str) -> list[Job]:
    """What there is to measure; a setting that cannot be is its error."""
    digests = {id(llm): weights}
    jobs = []
    for each in named:
        variant = each.variant
        source = variant.llm or llm
        if id(source) not in digests:
            digests[id(source)] = weights_digest(source.params)
        try:
            setting = setting_of(variant, llm)
            resolved = (setting.config, setting.engine)
        except FerrumError as error:
            setting, resolved = error, (variant.config, variant.engine)
        identity = fingerprint((digests[id(source)], *resolved, variant.taps))
        jobs.append(Job(each.key, setting, variant.taps, describe(variant, llm), identity))
    return jobs
