"""Data parallelism: copies of a model, each with an engine and devices of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax

from ferrum_jax.runtime.devices import mesh_devices
from ferrum_jax.runtime.driver import SCORING, add_all, run_together, scores_of
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.prompts import Prompt, as_prompts, per_prompt
from ferrum_jax.types import (
    ConfigError,
    EngineConfig,
    RequestOutput,
    SamplingParams,
    Score,
    Taps,
    UnsupportedError,
)

LETTERS = 4
"""Of a token, about."""


class Replicas:
    """LLMs that share out what they are given. A context manager: leaving it frees their memory.

    with fj.Replicas.load("demo", engine=fj.EngineConfig(mesh=(2, 4))) as replicas:
        outputs = replicas.generate(prompts, params)

    Each is an `LLM`, `replicas.llms[0]`, with all that one can do: what is not here is done with
    one of them. A request gets what it gets from one `LLM` with the same settings.
    """

    def __init__(self, llms: Sequence[LLM]):
        """Prefer `load`. The LLMs are of one model and tokenizer.

        Raises:
            ConfigError: there are none.
        """
        if not llms:
            raise ConfigError("there is no replica; give at least one LLM")
        self.llms = tuple(llms)

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str = "float32",
        *,
        engine: EngineConfig,
        progress: bool = False,
    ) -> Self:
        """As `LLM.load`: `EngineConfig.mesh = (2, 4)` is two replicas on four devices each.

        The checkpoint is read once. Caches, `max_num_seqs` and every other setting are of each
        replica.

        Raises:
            ConfigError: the mesh is not of replicas and devices.
            UnsupportedError: jax runs in several processes; each has an `LLM` of its own there.
            DeviceError: there are fewer devices.
        """
        if not isinstance(engine.mesh, tuple) or len(engine.mesh) != 2:
            raise ConfigError(
                f"EngineConfig.mesh is {engine.mesh!r}; replicas need two sizes, how many there "
                "are and the devices of each, as (2, 4)"
            )
        if jax.process_count() > 1:
            raise UnsupportedError(
                f"replicas are of one process and jax runs in {jax.process_count()}; load an LLM "
                "in each process and give it a part of the prompts"
            )
        engines = [
            replace(engine, mesh=(engine.num_devices,), first_device=first)
            for first in range(
                engine.first_device,
                engine.first_device + engine.num_replicas * engine.num_devices,
                engine.num_devices,
            )
        ]
        mesh_devices(engine.num_replicas * engine.num_devices, engine.first_device)
        first = LLM.load(path, dtype, engine=engines[0], progress=progress)
        others = [first.alike(first.config, first.params, each) for each in engines[1:]]
        return cls([first, *others])

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
        **service: Any,
    ) -> list[RequestOutput]:
        """`LLM.generate`, the prompts shared out; the outputs are in the prompts' order.

        A prompt goes where there is least to do so far, by about how many tokens there are to read
        and to generate.
        """
        prompts = as_prompts(prompts)
        given = self.llms[0].sampling_defaults.params if params is None else params
        each = per_prompt("SamplingParams", given, len(prompts))
        tokens = [p.max_tokens if isinstance(p, SamplingParams) else 0 for p in each]
        service = {"params": each, **service}
        llms, ids = self._run(prompts, tokens, service, score_only=False, progress=progress)
        return [llm.engine.take(i) for llm, i in zip(llms, ids, strict=True)]

    def score(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        taps: Taps | Sequence[Taps | None] | None = None,
        progress: bool = False,
    ) -> list[Score]:
        """`LLM.score`, the texts shared out."""
        texts = as_prompts(texts)
        service = {"params": SCORING, "taps": taps}
        none = [0] * len(texts)
        llms, ids = self._run(texts, none, service, score_only=True, progress=progress)
        return scores_of([llm.engine for llm in llms], ids)

    def warm_up(self) -> None:
        """Compile every shape of every replica."""
        self._each(LLM.warm_up)

    def close(self) -> None:
        """Free the caches and programs."""
        self._each(LLM.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.llms)

    def __repr__(self) -> str:
        return f"Replicas({len(self.llms)} x {self.llms[0]!r})"

    def _each(self, call: Callable[[LLM], None]) -> None:
        for llm in self.llms:
            call(llm)

    def _run(
        self,
        prompts: Sequence[Prompt],
        new_tokens: Sequence[int],
        service: dict[str, Any],
        *,
        score_only: bool,
        progress: bool,
    ) -> tuple[list[LLM], list[int]]:
        """Queue all prompts or none, and run them; whose each was, and its request there."""
        loads, places = [0] * len(self.llms), []
        for prompt, more in zip(prompts, new_tokens, strict=True):
            place = loads.index(min(loads))
            loads[place] += _about_tokens(prompt) + more
            places.append(place)
        llms = [self.llms[place] for place in places]
        drivers = [llm.driver for llm in llms]
        ids = add_all(drivers, self.llms[0].encode, prompts, service, score_only=score_only)
        work = [
            (llm.driver, [i for i, owner in zip(ids, llms, strict=True) if owner is llm])
            for llm in self.llms
        ]
        run_together(work, progress)
        return llms, ids


def _about_tokens(prompt: Prompt) -> int:
    return len(prompt) // LETTERS if isinstance(prompt, str) else len(prompt)
