"""`LLM`: the object that a notebook holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ferrum_jax.attention import dense_attention
from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.models import Params, check_params, forward, unembed
from ferrum_jax.models.weights.files import read_json
from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.load import load_model
from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.types import (
    ConfigError,
    EngineConfig,
    FerrumError,
    ModelConfig,
    RequestError,
    RequestOutput,
    SamplingParams,
    Score,
    StepShape,
    StreamDelta,
    TokenizerError,
    UnsupportedError,
)

Prompt = str | Sequence[int]
DEMO_MODEL = Path(__file__).parent.parent / "demo_model"
LONGEST_DEFAULT = 8192
"""`max_model_len` where neither the caller nor a shorter model sets it."""


class LLM:
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
    ):
        """Prefer `load`. Raises `ModelError` if the parameters do not fit the config."""
        check_params(config, params)
        self.config = config
        self.params = params
        self.tokenizer = tokenizer
        self.engine_config = engine or EngineConfig()
        self.eos_token_ids = tuple(eos_token_ids)
        self.max_model_len = _max_model_len(config, self.engine_config)
        self._engine: Engine | None = None
        self._streams: dict[int, deque[StreamDelta]] = {}

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
        """
        directory = DEMO_MODEL if path == "demo" else resolve_checkpoint(path)
        tokenizer = _load_tokenizer(directory)
        config, params = load_model(directory, dtype, progress=progress)
        eos = _eos_token_ids(directory, tokenizer)
        return cls(config, params, tokenizer, engine=engine, eos_token_ids=eos)

    def with_config(self, config: ModelConfig) -> LLM:
        """Another model with the same weights (not copied).

        Raises:
            ModelError: the weights do not fit; every difference is listed.
        """
        return LLM(
            config,
            self.params,
            self.tokenizer,
            engine=self.engine_config,
            eos_token_ids=self.eos_token_ids,
        )

    @property
    def engine(self) -> Engine:
        """The engine, with its cache; made when it is first needed."""
        if self._engine is None:
            config = self.config
            if _length_bound(config) is not None:
                config = replace(config, rope_length=self.max_model_len)
            self._engine = Engine(
                config,
                self.params,
                self.engine_config,
                max_model_len=self.max_model_len,
                tokenizer=self.tokenizer,
                eos_token_ids=self.eos_token_ids,
            )
        return self._engine

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        taps: Any = None,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Continue prompts, all of them batched; the outputs are in the prompts' order.

        Args:
            prompts: texts or lists of token ids.
            params: one for all, or one per prompt; None: `SamplingParams()`.
            progress: show a bar by requests, with tokens per second.

        Raises:
            RequestError: a wrong prompt or a wrong number of params; nothing runs then.
        """
        _refuse_taps(taps)
        prompts = as_prompts(prompts)
        each = _per_prompt(params or SamplingParams(), len(prompts))
        ids = self._add_all(prompts, each)
        self._run(ids, progress)
        return [self.engine.take(i) for i in ids]

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, taps: Any = None
    ) -> Iterator[StreamDelta]:
        """Continue one prompt and yield text as it comes; leaving the loop aborts the request."""
        _refuse_taps(taps)
        params = params or SamplingParams()
        request = self.engine.add(self.encode(prompt), params, prompt=_text(prompt), streams=True)
        self._streams[request] = deque()
        return self._deltas_of(request)

    def score(
        self, texts: Prompt | Sequence[Prompt], *, taps: Any = None, progress: bool = False
    ) -> list[Score]:
        """The log-likelihood of every token of each text, given the tokens before it."""
        _refuse_taps(taps)
        texts = as_prompts(texts)
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0)
        ids = self._add_all(texts, [params] * len(texts), score_only=True)
        self._run(ids, progress)
        trackers = [self.engine.take_tracker(i) for i in ids]
        scores = []
        for tracker in trackers:
            if tracker.error is not None:
                raise RequestError(f"text {len(scores)}: {tracker.error}")
            assert tracker.prompt_scores is not None
            scores.append(
                Score(list(tracker.request.prompt_token_ids), tracker.prompt_scores.chosen)
            )
        return scores

    def logits(self, prompt: Prompt) -> np.ndarray:
        """float32 `[T, V]`: the next-token logits at every position, in one dense forward."""
        ids = checked_token_ids(self.encode(prompt), self.config.vocab_size)
        padding = -len(ids) % 64
        tokens = np.asarray([*ids, *[0] * padding], np.int32)
        # Padding starts a sequence of its own, so that no length-dependent rope sees it.
        positions = np.asarray([*range(len(ids)), *[0] * padding], np.int32)
        values = _full_logits(self.params, tokens, positions, config=self.config)
        return np.asarray(values)[: len(ids)]

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; ids pass through.

        Raises:
            TokenizerError: a text was given and there is no tokenizer.
        """
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise TokenizerError(
                "this model was loaded without a tokenizer; give lists of token ids, or put "
                "tokenizer.json or tokenizer.model beside its weights"
            )
        return self.tokenizer.encode(prompt)

    def warm_up(self) -> None:
        """Compile every shape that the engine may run, several at a time."""
        self.engine.warm_up()

    @property
    def compilations(self) -> dict[StepShape, float]:
        """Seconds that each shape took which the engine has compiled."""
        return {} if self._engine is None else self._engine.compilations

    def close(self) -> None:
        """Free the engine's cache and programs; the next call makes them anew."""
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _add_all(
        self, prompts: Sequence[Prompt], params: Sequence[SamplingParams], *, score_only=False
    ) -> list[int]:
        """Queue all prompts, or none if one of them is refused."""
        ids: list[int] = []
        try:
            for i, (prompt, each) in enumerate(zip(prompts, params, strict=True)):
                try:
                    token_ids = self.encode(prompt)
                    ids.append(
                        self.engine.add(
                            token_ids, each, prompt=_text(prompt), score_only=score_only
                        )
                    )
                except FerrumError as error:
                    if len(prompts) > 1:
                        error.args = (f"prompt {i}: {error}",)
                    raise
        except BaseException:
            self._abandon(ids)
            raise
        return ids

    def _run(self, ids: Sequence[int], progress: bool) -> None:
        """Step until the requests have ended; if interrupted, abort them and leave."""
        engine, waiting, tokens = self.engine, set(ids), 0
        with tqdm(total=len(ids), unit="request", disable=not progress) as bar:
            try:
                while waiting:
                    for delta in self._step():
                        tokens += len(delta.token_ids)
                        if delta.request_id in waiting and engine.is_done(delta.request_id):
                            waiting.discard(delta.request_id)
                            tokens += engine.num_scored(delta.request_id)
                            bar.update()
                    if progress and (elapsed := bar.format_dict["elapsed"]):
                        bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
            except BaseException:
                self._abandon(ids)
                raise

    def _abandon(self, ids: Sequence[int]) -> None:
        for i in ids:
            self.engine.abort(i)
            if self.engine.is_done(i):
                self.engine.take_tracker(i)

    def _deltas_of(self, request: int) -> Iterator[StreamDelta]:
        engine, inbox = self.engine, self._streams[request]
        try:
            while inbox or not engine.is_done(request):
                if not inbox:
                    self._step()
                while inbox:
                    yield inbox.popleft()
            if (error := engine.take_tracker(request).error) is not None:
                raise RequestError(error)
        finally:
            del self._streams[request]
            self._abandon([request])

    def _step(self) -> list[StreamDelta]:
        """Step the engine; what streams gained waits in their inboxes, whoever stepped."""
        deltas = self.engine.step()
        for delta in deltas:
            if delta.request_id in self._streams:
                self._streams[delta.request_id].append(delta)
        return deltas


@partial(jax.jit, static_argnames="config")
def _full_logits(params: Params, tokens, positions, *, config: ModelConfig):
    hidden, _ = forward(
        params, jnp.asarray(tokens), positions, None, config=config, attend=dense_attention
    )
    return unembed(params, hidden, config)


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts from one or several; a list of integers is one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    listed: list[Any] = list(prompts)
    if listed and all(isinstance(x, int | np.integer) for x in listed):
        return [listed]
    for prompt in listed:
        if not isinstance(prompt, str) and not hasattr(prompt, "__iter__"):
            raise RequestError(f"a prompt is {prompt!r}; give a text or a list of token ids")
    return listed


def _per_prompt(
    params: SamplingParams | Sequence[SamplingParams], count: int
) -> Sequence[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise RequestError(f"{len(params)} SamplingParams for {count} prompts; give one or as many")
    return params


def _refuse_taps(taps: Any) -> None:
    if taps is not None:
        raise UnsupportedError(
            "taps on served requests are not supported in this version; "
            "use fj.forward_capture, which runs the same model"
        )


def _text(prompt: Prompt) -> str | None:
    return prompt if isinstance(prompt, str) else None


def _length_bound(config: ModelConfig) -> int | None:
    """The length up to which a length-dependent rope is that of the trained context."""
    bounds = [
        spec.attention.rope.scaling.original_max_positions
        for spec in config.layers
        if spec.attention.rope is not None and spec.attention.rope.scaling.depends_on_length
    ]
    return min(bounds, default=None)


def _max_model_len(config: ModelConfig, engine: EngineConfig) -> int:
    """The engine's limit: as asked for, else the model's, short of where its rope would change."""
    if engine.max_model_len is not None:
        has_rope = any(spec.attention.rope is not None for spec in config.layers)
        if engine.max_model_len > config.max_positions and not has_rope:
            raise ConfigError(
                f"EngineConfig.max_model_len is {engine.max_model_len}; this model has "
                f"{config.max_positions} positions"
            )
        return engine.max_model_len
    bound = _length_bound(config)
    return min(config.max_positions, LONGEST_DEFAULT, *([] if bound is None else [bound]))


def _load_tokenizer(directory: Path) -> Tokenizer | None:
    names = ("tokenizer.json", "tokenizer.model")
    if not any((directory / name).exists() for name in names):
        return None
    return load_tokenizer(directory)


def _eos_token_ids(directory: Path, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """What ends a text: generation_config.json's ids, else config.json's, else the tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            value = read_json(directory, name).get("eos_token_id")
            if value is not None:
                return tuple(value) if isinstance(value, list) else (value,)
    return () if tokenizer is None else tokenizer.eos_token_ids
