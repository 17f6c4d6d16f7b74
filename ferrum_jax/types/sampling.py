"""How the next token of a request is chosen. Names follow vLLM's `SamplingParams`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from ferrum_jax.types.errors import RequestError, UnsupportedError

MAX_LOGPROBS = 20
"""The most alternatives per token that `logprobs` and `prompt_logprobs` may ask for."""
MAX_LOGIT_BIAS = 128
"""The most entries of a `logit_bias`."""
MAX_BIAS = 1e30
"""The largest size of a bias: far from where fp32 ends, so that sums with logits stay finite."""
MAX_N = 1024
"""The most completions of one prompt."""
MAX_STOPS = 64
"""The most stop strings of a request."""


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request; validated when made. Numbers may be numpy's.

    `temperature=0` is greedy; ties go to the lowest token id. The order is: penalties, bias,
    temperature, then truncation (top-k, top-p, min-p).

    Raises:
        RequestError: a value outside its range.
        UnsupportedError: a value that is meaningful but that this version does not run.
    """

    n: int = 1
    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the likeliest."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens seen in prompt or output
    (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtracted once from every token already generated."""
    frequency_penalty: float = 0.0
    """Subtracted from a token once for each time it was generated."""
    stop: str | tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    seed: int | None = None
    """None: drawn afresh for each request."""
    logprobs: int | None = None
    """k alternatives per generated token; 0: the sampled token alone; None: no logprobs."""
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the logits of these token ids, after the penalties."""
    skip_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    """Keep only the last so many tokens of the prompt."""
    logprobs_mode: str = "raw"
    min_tokens: int = 0
    typical_p: float = 1.0
    tfs_z: float = 1.0
    mirostat: Mapping[str, float] | None = field(default=None, hash=False)
    logprob_token_ids: tuple[int, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    """Sample nothing else; None: any token."""
    bad_words: tuple[str, ...] = ()
    guided: Mapping[str, Any] | None = field(default=None, hash=False)
    logits_processors: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "stop",
            "stop_token_ids",
            "bad_words",
            "logits_processors",
            "logprob_token_ids",
            "allowed_token_ids",
        ):
            self._freeze(name)
        self._check_integers()
        self._check_numbers()
        self._check_flags()
        self._check_token_ids()
        self._check_logit_bias()
        self._check_text()
        self._check_supported()

    @classmethod
    def greedy(cls, **changes: Any) -> SamplingParams:
        """The likeliest token at every step."""
        return cls(**{"temperature": 0.0, **changes})

    @classmethod
    def creative(cls, **changes: Any) -> SamplingParams:
        """Varied text: temperature 1, top-p 0.95, a light repetition penalty."""
        return cls(**{"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.1, **changes})

    @classmethod
    def precise(cls, **changes: Any) -> SamplingParams:
        """Careful text: temperature 0.3, top-p 0.9."""
        return cls(**{"temperature": 0.3, "top_p": 0.9, **changes})

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _freeze(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            self._set(name, None if name == "allowed_token_ids" else ())
            return
        if name == "stop" and isinstance(value, str):
            value = (value,)
        try:
            items = None if isinstance(value, str | bytes | Mapping) else tuple(value)
        except TypeError:
            items = None
        if items is None:
            raise RequestError(f"{name} is {_show(value)}; it must be a list")
        self._set(name, items)

    def _check_integers(self) -> None:
        for name, low, high in (
            ("n", 1, MAX_N),
            ("max_tokens", 1, 2**24),
            ("min_tokens", 0, 2**24),
            ("top_k", -1, 2**31 - 1),
            ("seed", -(2**63), 2**63 - 1),
            ("logprobs", 0, MAX_LOGPROBS),
            ("prompt_logprobs", 0, MAX_LOGPROBS),
            ("truncate_prompt_tokens", 1, 2**24),
        ):
            value = getattr(self, name)
            if value is None and name in (
                "seed",
                "logprobs",
                "prompt_logprobs",
                "truncate_prompt_tokens",
            ):
                continue
            number = _integer(value)
            if number is None or not low <= number <= high:
                raise RequestError(
                    f"{name} is {_show(value)}; it must be an integer {low} to {high}"
                )
            self._set(name, number)
        if self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}, above max_tokens = {self.max_tokens}"
            )

    def _check_numbers(self) -> None:
        for name, low, high, open_low in (
            ("temperature", 0.0, 1e4, False),
            ("top_p", 0.0, 1.0, True),
            ("min_p", 0.0, 1.0, False),
            ("typical_p", 0.0, 1.0, True),
            ("tfs_z", 0.0, 1.0, True),
            ("repetition_penalty", 1e-4, 1e4, False),
            ("presence_penalty", -2.0, 2.0, False),
            ("frequency_penalty", -2.0, 2.0, False),
        ):
            value = getattr(self, name)
            number = _finite(value)
            if number is None or not low <= number <= high or (open_low and number == low):
                bounds = f"above {low:g} and at most" if open_low else f"from {low:g} to"
                raise RequestError(
                    f"{name} is {_show(value)}; it must be a finite number {bounds} {high:g}"
                )
            self._set(name, number)

    def _check_flags(self) -> None:
        for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise RequestError(f"{name} is {_show(value)}; it must be True or False")
        if self.logprobs_mode not in ("raw", "processed"):
            raise RequestError(
                f"logprobs_mode is {_show(self.logprobs_mode)}; choose one of raw, processed"
            )

    def _check_token_ids(self) -> None:
        for name in ("stop_token_ids", "logprob_token_ids", "allowed_token_ids"):
            if getattr(self, name) is not None:
                self._set(name, tuple(_token_id(name, token) for token in getattr(self, name)))
        if self.allowed_token_ids == ():
            raise RequestError("allowed_token_ids is empty; name a token, or leave it at None")
        if len(self.logprob_token_ids) > MAX_LOGIT_BIAS:
            raise RequestError(
                f"logprob_token_ids has {len(self.logprob_token_ids)} ids; at most {MAX_LOGIT_BIAS}"
            )

    def _check_logit_bias(self) -> None:
        biases = {} if self.logit_bias is None else self.logit_bias
        if not isinstance(biases, Mapping):
            raise RequestError(f"logit_bias is {_show(biases)}; it must map token ids to numbers")
        if len(biases) > MAX_LOGIT_BIAS:
            raise RequestError(f"logit_bias has {len(biases)} entries; at most {MAX_LOGIT_BIAS}")
        checked = {}
        for token, bias in biases.items():
            number = _finite(bias)
            if number is None or abs(number) > MAX_BIAS:
                raise RequestError(
                    f"logit_bias[{_show(token)}] is {_show(bias)}; it must be a finite number from "
                    f"{-MAX_BIAS:g} to {MAX_BIAS:g}"
                )
            checked[_token_id("logit_bias", token)] = number
        self._set("logit_bias", checked)

    def _check_text(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise RequestError(f"stop has {len(self.stop)} strings; at most {MAX_STOPS}")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestError(f"stop holds {_show(text)}; a stop string must have a character")

    def _check_supported(self) -> None:
        """This version's limits: each line goes when the feature comes."""
        for name, neutral in (
            ("min_tokens", 0),
            ("typical_p", 1.0),
            ("tfs_z", 1.0),
            ("mirostat", None),
            ("logprob_token_ids", ()),
            ("logprobs_mode", "raw"),
            ("bad_words", ()),
            ("guided", None),
            ("logits_processors", ()),
        ):
            if getattr(self, name) != neutral:
                raise UnsupportedError(
                    f"SamplingParams.{name} = {_show(getattr(self, name))} is not supported in "
                    f"this version; leave it at {neutral!r}"
                )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise `RequestError` if a token id that is named here lies outside the vocabulary."""
        for name in ("stop_token_ids", "logit_bias", "allowed_token_ids", "logprob_token_ids"):
            for token in getattr(self, name) or ():
                if token >= vocab_size:
                    raise RequestError(
                        f"{name} names token id {token}; the vocabulary has {vocab_size} ids "
                        f"(0 to {vocab_size - 1})"
                    )


def _integer(value: object) -> int | None:
    """The value as an int; None if it is not an integer."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _finite(value: object) -> float | None:
    """The value as a float; None if it is not a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _token_id(name: str, value: object) -> int:
    token = _integer(value)
    if token is None or not 0 <= token < 2**31:
        raise RequestError(
            f"{name} holds {_show(value)}; token ids are integers from 0 to {2**31 - 1}"
        )
    return token


def _show(value: object) -> str:
    """The value as an error message names it: short, whatever was passed."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"{type(value).__name__} too long to print"
    return text if len(text) <= 80 else f"{text[:77]}..."
