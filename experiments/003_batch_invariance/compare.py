"""The same requests under many settings, and where their logprobs have other bits."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from config import Comparison
from tqdm import tqdm

import ferrum_jax as fj
from ferrum_jax.types import EngineConfig, RequestOutput


@dataclass(frozen=True)
class Text:
    """A request's tokens and, for each, logprobs by token id: its own and the likeliest ones'."""

    tokens: list[int]
    logprobs: list[dict[int, float]]


@dataclass
class Difference:
    """How the texts of a setting lie beside those of the requests alone."""

    positions: int = 0
    """Tokens compared."""
    equal: int = 0
    """Tokens that are the same behind the same ones, all their logprobs with the same bits."""
    other_tokens: int = 0
    """Tokens from the first that is another one, in each text."""
    max_difference: float = 0.0
    """Largest difference of a logprob (nats) behind the same tokens."""

    def add(self, ours: Text, theirs: Text) -> None:
        """Count one text."""
        self.positions += len(ours.tokens)
        for i, (a, b) in enumerate(zip(ours.logprobs, theirs.logprobs, strict=True)):
            for token in a.keys() & b.keys():
                self.max_difference = max(self.max_difference, abs(a[token] - b[token]))
            if ours.tokens[i] != theirs.tokens[i]:
                self.other_tokens += len(ours.tokens) - i
                return
            self.equal += a == b


class Comparer:
    """One dtype, invariant or not: every setting beside the requests alone."""

    def __init__(self, plan: Comparison, dtype: str, invariant: bool, cache: str):
        """Args:
        cache: folder of jax's compilation cache; settings share programs.
        """
        self._plan, self._dtype, self._invariant, self._cache = plan, dtype, invariant, cache
        self._prompts = plan.prompts
        self._params = [_params(plan, i) for i in range(len(plan.prompts))]
        self._llm = self._load(plan.base)

    def rows(self) -> Iterator[dict]:
        """One record per setting."""
        alone = self._generate(self._llm, batch=1)
        everything = len(self._prompts)
        for setting, batch, shuffled in (
            ("alone, a second time", 1, False),
            ("in fours", 4, False),
            ("all together", everything, False),
            ("all together, in another order", everything, True),
        ):
            found = self._generate(self._llm, batch=batch, shuffled=shuffled)
            yield self._row(setting, alone, found, self._llm)
        yield from self._score_rows(alone)
        for setting, engine in self._plan.engines().items():
            yield self._engine_row(setting, engine, alone)
        yield from self._prefix_rows(alone)

    def _engine_row(self, setting: str, engine: EngineConfig, alone: list[Text]) -> dict:
        with self._load(engine) as llm:
            found = self._generate(llm, batch=len(self._prompts))
            return self._row(setting, alone, found, llm)

    def _prefix_rows(self, alone: list[Text]) -> Iterator[dict]:
        with self._load(replace(self._plan.base, prefix_caching=True)) as llm:
            for setting in ("prefix cache, mostly missed", "prefix cache, hit"):
                llm.metrics.reset()
                found = self._generate(llm, batch=len(self._prompts))
                yield self._row(setting, alone, found, llm)

    def _score_rows(self, alone: list[Text]) -> Iterator[dict]:
        """Scored texts beside the decoded ones: alone, all together, and by a dense forward."""
        llm, lengths = self._llm, [len(self._llm.encode(prompt)) for prompt in self._prompts]
        texts = [
            llm.encode(prompt) + text.tokens
            for prompt, text in zip(self._prompts, alone, strict=True)
        ]
        decoded = [_chosen(text) for text in alone]
        scored = [llm.score([text])[0].logprobs for text in texts]
        together = [score.logprobs for score in llm.score(texts)]
        dense = [_dense_logprobs(llm, text) for text in texts]
        for setting, found in (
            ("scored, alone", scored),
            ("scored, all together", together),
            ("llm.logits, dense", dense),
        ):
            behind = [
                _as_text(text, values, start)
                for text, values, start in zip(texts, found, lengths, strict=True)
            ]
            yield self._row(setting, decoded, behind, llm)

    def _row(self, setting: str, alone: list[Text], found: list[Text], llm: fj.LLM) -> dict:
        difference, metrics = Difference(), llm.metrics.snapshot()
        for ours, theirs in zip(alone, found, strict=True):
            difference.add(ours, theirs)
        return {
            "dtype": self._dtype,
            "batch_invariant": self._invariant,
            "setting": setting,
            **asdict(difference),
            "texts_that_differ": sum(
                a.tokens != b.tokens for a, b in zip(alone, found, strict=True)
            ),
            "equal_fraction": difference.equal / difference.positions,
            "preemptions": metrics.num_preemptions,
            "swaps": metrics.num_swaps,
            "prefix_hit_rate": metrics.prefix_hit_rate,
        }

    def _load(self, engine: EngineConfig) -> fj.LLM:
        engine = replace(engine, batch_invariant=self._invariant, compile_cache_dir=self._cache)
        return fj.LLM.load(self._plan.model, self._dtype, engine=engine)

    def _generate(self, llm: fj.LLM, *, batch: int, shuffled: bool = False) -> list[Text]:
        """The texts in the order of the requests, however they were batched."""
        order = list(range(len(self._prompts)))
        if shuffled:
            random.Random(self._plan.order_seed).shuffle(order)
        texts: dict[int, Text] = {}
        bounds = [*range(0, len(order), batch), len(order)]
        for first, last in pairwise(bounds):
            chosen = order[first:last]
            outputs = llm.generate(
                [self._prompts[i] for i in chosen], [self._params[i] for i in chosen]
            )
            texts |= {i: _text(output) for i, output in zip(chosen, outputs, strict=True)}
        return [texts[i] for i in range(len(order))]


def compare(plan: Comparison, cache: str) -> Iterator[dict]:
    """Every setting of every dtype, plain and invariant."""
    cases = [(dtype, invariant) for dtype in plan.dtypes for invariant in (False, True)]
    with tqdm(total=len(cases) * (9 + len(plan.engines())), unit="setting") as bar:
        for dtype, invariant in cases:
            for row in Comparer(plan, dtype, invariant, cache).rows():
                bar.update()
                yield row


def _params(plan: Comparison, index: int) -> fj.SamplingParams:
    return fj.SamplingParams(
        max_tokens=plan.max_tokens,
        temperature=plan.temperature if index % 2 else 0.0,
        top_p=plan.top_p,
        seed=index,
        logprobs=plan.logprobs,
        ignore_eos=True,
    )


def _text(output: RequestOutput) -> Text:
    (completion,) = output.outputs
    assert completion.logprobs is not None
    tables = [{t: x.logprob for t, x in table.items()} for table in completion.logprobs]
    return Text(completion.token_ids, tables)


def _chosen(text: Text) -> Text:
    """The tokens' own logprobs only, as scoring gives them."""
    pairs = zip(text.tokens, text.logprobs, strict=True)
    return Text(text.tokens, [{token: table[token]} for token, table in pairs])


def _as_text(tokens: Sequence[int], logprobs: np.ndarray, start: int) -> Text:
    """The part of a scored text behind its prompt."""
    generated = list(tokens[start:])
    values = logprobs[start:].tolist()
    return Text(generated, [{t: x} for t, x in zip(generated, values, strict=True)])


def _dense_logprobs(llm: fj.LLM, tokens: list[int]) -> np.ndarray:
    """Each token's logprob by `llm.logits`; the first is nan. float32, as the engine's are."""
    logits = llm.logits(tokens)
    top = logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    logprobs = np.full(len(tokens), np.nan, np.float32)
    rows = np.arange(len(tokens) - 1)
    logprobs[1:] = (logits - totals)[rows, tokens[1:]]
    return logprobs
