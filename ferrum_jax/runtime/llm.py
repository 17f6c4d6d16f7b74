"""`LLM`: the object that a notebook holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.models import Params, check_params
from ferrum_jax.models.quantized import quantise_params
from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.load import load_config, load_model
from ferrum_jax.runtime.adapting import Adapting
from ferrum_jax.runtime.branch import Branch, Worth, search
from ferrum_jax.runtime.chatting import Chatting
from ferrum_jax.runtime.defaults import SamplingDefaults, sampling_defaults
from ferrum_jax.runtime.dense import dense_logits
from ferrum_jax.runtime.directory import DEMO_MODEL, eos_token_ids, tokenizer_of
from ferrum_jax.runtime.driver import SCORING, Driver, add_all, scores_of
from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.runtime.lengths import length_bound, max_model_len
from ferrum_jax.runtime.memory import refuse_what_does_not_fit
from ferrum_jax.runtime.mesh import place_params, placement_of
from ferrum_jax.runtime.prompts import Prompt, as_prompts, prompt_text
from ferrum_jax.runtime.ranking import Choosing
from ferrum_jax.runtime.report import EngineReport
from ferrum_jax.runtime.sentence import EmbeddingDefaults, embedding_defaults
from ferrum_jax.runtime.taps.methods import Capturing
from ferrum_jax.runtime.timeline import Timeline
from ferrum_jax.types import (
    EngineConfig,
    ModelConfig,
    Priority,
    RequestOutput,
    SamplingParams,
    Score,
    StepShape,
    StreamDelta,
    Taps,
)

Level = Priority | int | str


class LLM(Capturing, Choosing, Adapting, Chatting):
    """A model, its tokenizer and an engine. A context manager: leaving it frees the device memory.

    with LLM.load("demo") as llm:
        outputs = llm.generate(["The for statement"], SamplingParams(max_tokens=40))
        print(outputs[0].outputs[0].text)
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer | None = None,
        *,
        engine: EngineConfig | None = None,
        eos_token_ids: Sequence[int] = (),
        sampling_defaults: SamplingDefaults | None = None,
        embedding: EmbeddingDefaults | None = None,
    ):
        """Prefer `load`. Raises `ModelError` if the parameters do not fit the config."""
        check_params(config, params)
        self.engine_config = engine or EngineConfig()
        self.config = config
        if (kind := self.engine_config.quantization) is not None:
            params = quantise_params(params, kind)
        self.params = place_params(params, placement_of(self.engine_config, config))
        self.tokenizer = tokenizer
        self.eos_token_ids = tuple(eos_token_ids)
        self.sampling_defaults = sampling_defaults or SamplingDefaults()
        self.embedding_defaults = embedding or EmbeddingDefaults()
        self.max_model_len = max_model_len(config, self.engine_config)
        self._engine: Engine | None = None
        self._driver: Driver | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str = "float32",
        *,
        engine: EngineConfig | None = None,
        progress: bool = False,
    ) -> Self:
        """A model from a Hugging Face directory, a hub id, or `"demo"` (inside the package).

        A directory without tokenizer files gives an LLM that takes and returns token ids only.

        Raises:
            ModelError, ConfigError, UnsupportedError, WeightError, TokenizerError: as the parts
                that they name.
            ResourceExhausted: the weights do not fit the device.
        """
        directory = DEMO_MODEL if path == "demo" else resolve_checkpoint(path)
        tokenizer = tokenizer_of(directory)
        defaults = sampling_defaults(directory)
        engine, config = engine or EngineConfig(), load_config(directory)
        refuse_what_does_not_fit(config, dtype, engine, shows=progress)
        config, params = load_model(
            directory,
            dtype,
            progress=progress,
            quantization=engine.quantization,
            placement=placement_of(engine, config),
        )
        eos = eos_token_ids(directory, tokenizer)
        return cls(
            config,
            params,
            tokenizer,
            engine=engine,
            eos_token_ids=eos,
            sampling_defaults=defaults,
            embedding=embedding_defaults(directory),
        )

    def with_config(self, config: ModelConfig) -> Self:
        """Another model with the same weights (not copied).

        Raises:
            ModelError: the weights do not fit; every difference is listed.
        """
        return self.alike(config, self.params)

    def alike(
        self, config: ModelConfig, params: Params, engine: EngineConfig | None = None
    ) -> Self:
        """Another LLM with the same tokenizer and settings, or with another engine's."""
        return type(self)(
            config,
            params,
            self.tokenizer,
            engine=engine or self.engine_config,
            eos_token_ids=self.eos_token_ids,
            sampling_defaults=self.sampling_defaults,
            embedding=self.embedding_defaults,
        )

    @property
    def engine(self) -> Engine:
        """The engine, with its cache; made when it is first needed."""
        if self._engine is None:
            config = self.config
            if length_bound(config) is not None:
                config = replace(config, rope_length=self.max_model_len)
            self._engine = Engine(
                config,
                self.params,
                self.engine_config,
                max_model_len=self.max_model_len,
                tokenizer=self.tokenizer,
                eos_token_ids=self.eos_token_ids,
            )
            self._driver = Driver(self._engine)
        return self._engine

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        taps: Taps | Sequence[Taps | None] | None = None,
        priority: Level | Sequence[Level] = Priority.NORMAL,
        client: str | Sequence[str] = "",
        timeout: float | Sequence[float | None] | None = None,
        cache_salt: str | Sequence[str] = "",
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Continue prompts, all of them batched; the outputs are in the prompts' order.

        Args:
            prompts: texts or lists of token ids.
            params: one for all, or one per prompt; None: `sampling_defaults.params`, which are
                those of generation_config.json over those of `SamplingParams()`.
            taps: edits of the model (`fj.edits`), one for all, or one per prompt.
            priority, client: for the scheduling policies that ask (see `EngineConfig.policy`).
            timeout: seconds after which a request ends as it stands, with reason `timeout`.
            cache_salt: cached prefixes are shared only between requests of one salt.
                These four are one for all, or one per prompt.
            progress: show a bar by requests, with tokens per second.

        Raises:
            RequestError: a wrong prompt or a wrong number of params; nothing runs then.
            ResourceExhausted: a prompt that can never fit, or more than `max_waiting`.
        """
        prompts = as_prompts(prompts)
        service = {
            "params": self.sampling_defaults.params if params is None else params,
            "taps": taps,
            "priority": priority,
            "client": client,
            "timeout": timeout,
            "cache_salt": cache_salt,
        }
        ids = self._add_all(prompts, service)
        self.driver.run(ids, progress)
        return [self.engine.take(i) for i in ids]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        taps: Taps | None = None,
        **service: Any,
    ) -> Iterator[StreamDelta]:
        """Continue one prompt and yield text as it comes; leaving the loop aborts the request.

        `service`: priority, client, timeout and cache_salt, as `generate` takes them.
        """
        request = self.engine.add(
            self.encode(prompt),
            params or self.sampling_defaults.params,
            prompt=prompt_text(prompt),
            streams=True,
            taps=taps,
            **service,
        )
        return self.driver.stream(request)

    def score(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        taps: Taps | Sequence[Taps | None] | None = None,
        progress: bool = False,
    ) -> list[Score]:
        """The log-likelihood of every token of each text, given the tokens before it.

        `taps`: edits of the model, one for all, or one per text: other edits share a batch, and as
        long as they are of one kind, a compiled program.
        """
        texts = as_prompts(texts)
        ids = self._add_all(texts, {"params": SCORING, "taps": taps}, score_only=True)
        self.driver.run(ids, progress)
        return scores_of([self.engine] * len(ids), ids)

    def branch(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        width: int = 4,
        rounds: int = 3,
        keep: int = 1,
        score: Worth | None = None,
        taps: Taps | None = None,
        progress: bool = False,
    ) -> list[Branch]:
        """Search over continuations: sample, keep the best, branch from those, and so on.

        In each round every kept branch is continued `width` times by up to `params.max_tokens`
        tokens; of all continuations the `keep` best go on. Nothing is computed twice: branches
        share the pages of what they have in common.

        Args:
            params: of each continuation; None: 16 tokens at temperature 1.
            score: what a branch is worth; None: the mean logprob of its tokens.
            taps: edits of the model; their positions are counted from the start.
            progress: show a bar by rounds.

        Returns:
            The branches that were kept last and those that ended before, the best first. Each
            knows its parent; `branch.path()` leads from the first round to it.

        Raises:
            RequestError: a wrong prompt, or a number below 1.
        """
        params = SamplingParams(max_tokens=16) if params is None else params
        return search(
            self.engine,
            self.encode(prompt),
            params,
            width=width,
            rounds=rounds,
            keep=keep,
            score=score,
            taps=taps,
            run=self.driver.run,
            progress=progress,
        )

    @contextmanager
    def timeline(self) -> Iterator[Timeline]:
        """Record who ran when, while the block runs.

        with llm.timeline() as timeline:
            llm.generate(prompts)
        timeline.plot("timeline.png")
        """
        timeline = Timeline()
        self.engine.record_timeline(timeline)
        try:
            yield timeline
        finally:
            self.engine.record_timeline(None)

    @property
    def metrics(self) -> EngineReport:
        """What the engine has done: `print(llm.metrics.snapshot())`."""
        return self.engine.metrics

    def logits(self, prompt: Prompt, *, taps: Taps | None = None) -> np.ndarray:
        """float32 `[T, V]`: the next-token logits at every position, in one dense forward."""
        ids = checked_token_ids(self.encode(prompt), self.config.vocab_size)
        return dense_logits(self.config, self.params, ids, taps)

    def __repr__(self) -> str:
        config, dtype = self.config, self.params.embed.dtype
        defaults = self.sampling_defaults
        sampling = f", default {defaults}" if defaults.given else ""
        return (
            f"LLM({config.model_type}, {config.num_layers} layers, hidden {config.hidden_size}, "
            f"vocabulary {config.vocab_size}, {dtype}, max_model_len {self.max_model_len}"
            f"{sampling})"
        )

    def warm_up(self) -> None:
        """Compile every shape that the engine may run, several at a time."""
        self.engine.warm_up()

    @property
    def compilations(self) -> dict[StepShape, float]:
        """Seconds that each shape took which the engine has compiled."""
        return {} if self._engine is None else self._engine.compilations

    def close(self) -> None:
        """Free the engine's cache and programs; the next call makes them anew."""
        self._engine = self._driver = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def driver(self) -> Driver:
        """Steps the engine for calls that wait for their requests."""
        assert self.engine is not None
        assert self._driver is not None
        return self._driver

    def _add_all(
        self, prompts: Sequence[Prompt], service: dict[str, Any], *, score_only: bool = False
    ) -> list[int]:
        """Queue all prompts, or none if one of them is refused."""
        drivers = [self.driver] * len(prompts)
        return add_all(drivers, self.encode, prompts, service, score_only=score_only)
