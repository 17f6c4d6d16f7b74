"""How the next token of a request is chosen. Names follow vLLM's `SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ferrum_jax.types.checks import as_finite, checked_integer, checked_number, checked_token_id
from ferrum_jax.types.checks import show as _show
from ferrum_jax.types.errors import RequestError
from ferrum_jax.types.guided import checked_guided
from ferrum_jax.types.processors import checked_processor

MAX_LOGPROBS = 20
"""The most alternatives per token that `logprobs` and `prompt_logprobs` may ask for."""
MAX_LOGIT_BIAS = 128
"""The most entries of a `logit_bias`."""
MAX_LOGPROB_TOKEN_IDS = 128
"""The most token ids whose logprobs `logprob_token_ids` may ask for."""
MAX_END_IDS = 128
"""The most token ids that `min_tokens` can hold off: EOS and `stop_token_ids` together."""
MAX_BAD_WORDS = 256
"""The most `bad_words`."""
MAX_BAD_TOKENS = 1024
"""The most tokens of all spellings of a request's `bad_words` together."""
MAX_BIAS = 1e30
"""The largest size of a bias: far from where fp32 ends, so that sums with logits stay finite."""
MAX_N = 1024
"""The most completions of one prompt."""
MAX_STOPS = 64
"""The most stop strings of a request."""


TRUNCATIONS = {
    "top_k": (0, -1),
    "tfs_z": (1.0,),
    "typical_p": (1.0,),
    "top_p": (1.0,),
    "min_p": (0.0,),
}
"""The values of each truncation that keep every token."""


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request; validated when made. Numbers may be numpy's.

    `temperature=0` is greedy; ties go to the lowest token id. The order is: penalties, bias,
    `logits_processors`, masks (allowed_token_ids, bad_words, min_tokens), temperature, then
    truncation (top-k, tail-free, typical, top-p, min-p; or mirostat). docs/sampling.md has the
    formulas.

    Raises:
        RequestError: a value outside its range.
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
    """Whether the text keeps the stop string, or the text of the token, that ended it."""
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
    """raw: the model's own; processed: of the distribution that is sampled from."""
    min_tokens: int = 0
    """Nothing ends the completion before so many tokens: no EOS, stop token or stop string."""
    typical_p: float = 1.0
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2023)."""
    tfs_z: float = 1.0
    """Cut the tail where the sorted probabilities have become flat (Phenix and Egan 2019)."""
    mirostat: Mapping[str, float] | None = field(default=None, hash=False)
    """Steer the surprise (Basu et al. 2021): mode 1 or 2, tau in bits (5), learning rate eta (0.1).
    It takes the place of the truncations."""
    logprob_token_ids: tuple[int, ...] = ()
    """Their logprobs are in every table of logprobs, for prompt and generated tokens."""
    allowed_token_ids: tuple[int, ...] | None = None
    """Sample nothing else; None: any token."""
    bad_words: tuple[str, ...] = ()
    """Texts whose tokens never come in a row, spelled as at a text's start, behind a space and
    within a text."""
    guided: Mapping[str, Any] | None = field(default=None, hash=False)
    """A grammar that the text has to be of: {"json": schema}, {"json_object": True},
    {"regex": ...}, {"choice": [...]} or {"grammar": Lark}; "after" beside it: only behind that
    text. docs/guided.md."""
    logits_processors: tuple[Any, ...] = ()
    """Jittable functions `(logits [V], tokens [L], length) -> logits [V]`; `tokens` holds -1 from
    `length` on. Values go in front, by `jax.tree_util.Partial(function, values)`."""

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
        self._check_mirostat()
        self._check_flags()
        self._check_token_ids()
        self._check_logit_bias()
        self._check_text()
        self._check_processors()
        self._check_guided()

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

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per generated token that a table has; None: there are no tables."""
        return 0 if self.logprobs is None and self.logprob_token_ids else self.logprobs

    def _check_integers(self) -> None:
        optional = ("seed", "logprobs", "prompt_logprobs", "truncate_prompt_tokens")
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
            if value is not None or name not in optional:
                self._set(name, checked_integer(name, value, low, high))
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
            self._set(name, checked_number(name, value, low, high, open_low=open_low))

    def _check_mirostat(self) -> None:
        if self.mirostat is None:
            return
        defaults = {"mode": 2, "tau": 5.0, "eta": 0.1}
        if not isinstance(self.mirostat, Mapping) or not set(self.mirostat) <= set(defaults):
            raise RequestError(
                f"mirostat is {_show(self.mirostat)}; it must be None or a mapping with mode, tau "
                f"and eta, such as {defaults}"
            )
        given = {**defaults, **self.mirostat}
        self._set(
            "mirostat",
            {
                "mode": checked_integer("mirostat's mode", given["mode"], 1, 2),
                "tau": checked_number("mirostat's tau", given["tau"], 0, 100, open_low=True),
                "eta": checked_number("mirostat's eta", given["eta"], 0, 1, open_low=True),
            },
        )
        for name, neutral in TRUNCATIONS.items():
            if getattr(self, name) not in neutral:
                raise RequestError(
                    f"{name} is {getattr(self, name)} beside mirostat, which truncates by itself; "
                    f"leave {name} at {neutral[0]}, or mirostat at None"
                )

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
                self._set(
                    name, tuple(checked_token_id(name, token) for token in getattr(self, name))
                )
        if self.allowed_token_ids == ():
            raise RequestError("allowed_token_ids is empty; name a token, or leave it at None")
        if len(self.logprob_token_ids) > MAX_LOGPROB_TOKEN_IDS:
            raise RequestError(
                f"logprob_token_ids has {len(self.logprob_token_ids)} ids; at most "
                f"{MAX_LOGPROB_TOKEN_IDS}"
            )

    def _check_logit_bias(self) -> None:
        biases = {} if self.logit_bias is None else self.logit_bias
        if not isinstance(biases, Mapping):
            raise RequestError(f"logit_bias is {_show(biases)}; it must map token ids to numbers")
        if len(biases) > MAX_LOGIT_BIAS:
            raise RequestError(f"logit_bias has {len(biases)} entries; at most {MAX_LOGIT_BIAS}")
        checked = {}
        for token, bias in biases.items():
            number = as_finite(bias)
            if number is None or abs(number) > MAX_BIAS:
                raise RequestError(
                    f"logit_bias[{_show(token)}] is {_show(bias)}; it must be a finite number from "
                    f"{-MAX_BIAS:g} to {MAX_BIAS:g}"
                )
            checked[checked_token_id("logit_bias", token)] = number
        self._set("logit_bias", checked)

    def _check_text(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise RequestError(f"stop has {len(self.stop)} strings; at most {MAX_STOPS}")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestError(f"stop holds {_show(text)}; a stop string must have a character")
        if len(self.bad_words) > MAX_BAD_WORDS:
            raise RequestError(
                f"bad_words has {len(self.bad_words)} words; at most {MAX_BAD_WORDS}"
            )
        for word in self.bad_words:
            if not isinstance(word, str) or not word.strip():
                raise RequestError(f"bad_words holds {_show(word)}; a word must have a character")

    def _check_processors(self) -> None:
        self._set("logits_processors", tuple(map(checked_processor, self.logits_processors)))

    def _check_guided(self) -> None:
        if self.guided is None:
            return
        checked_guided(self.guided)
        if self.prompt_logprobs is not None and self.logprobs_mode == "processed":
            raise RequestError(
                "guided with processed prompt_logprobs: a grammar says nothing about a prompt; "
                'leave prompt_logprobs at None, or logprobs_mode at "raw"'
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
