"""Continuations up to a stop string, as lm-eval's tasks ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.research.lm_eval.scoring import check_room, note_truncated
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import RequestError, SamplingParams, Taps, TokenizerError

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the number of tokens to generate; of several that are given, the first is taken."""
SAMPLING = (
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""Arguments that are those of `SamplingParams`."""
KNOWN = ("until", "do_sample", "temperature", *LENGTHS, *SAMPLING)


def generate_texts(
    llm: LLM,
    requests: Sequence[tuple[Sequence[int], Mapping[str, Any]]],
    *,
    max_length: int,
    max_gen_toks: int = 256,
    seed: int = 1234,
    taps: Taps | None = None,
    progress: bool = False,
) -> list[str]:
    """The text that follows each context (token ids), up to a stop string, all in one batch.

    The model sees `max_length` tokens, those to be generated among them: what is longer loses the
    left of its context, with a warning.

    Args:
        requests: a context and its generation arguments, by the names in `KNOWN`: `until` (one
            text or several), `do_sample`, `temperature`, a number of tokens and the like.
        max_gen_toks: tokens to generate where the arguments do not say.
        seed: of the first request; the next has the next, so that repeated requests differ.
        taps: edits of the model, for all requests.
        progress: show a bar by requests.

    Raises:
        RequestError: an argument is unknown or outside its range, or leaves no room for a context.
        TokenizerError: there is no tokenizer.
    """
    check_room(llm, max_length)
    if llm.tokenizer is None:
        raise TokenizerError("texts are generated with a tokenizer, and this model has none")
    stops = [stop_strings(arguments, llm.tokenizer) for _, arguments in requests]
    params = [
        sampling_params(arguments, llm.tokenizer, max_gen_toks, seed + i)
        for i, (_, arguments) in enumerate(requests)
    ]
    prompts = [
        list(context[-_room(max_length, p.max_tokens) :])
        for (context, _), p in zip(requests, params, strict=True)
    ]
    cut = sum(len(c) > len(p) for (c, _), p in zip(requests, prompts, strict=True))
    note_truncated(cut, len(prompts), max_length)
    outputs = llm.generate(prompts, params, taps=taps, progress=progress)
    texts = []
    for output, until in zip(outputs, stops, strict=True):
        if output.error is not None:
            raise RequestError(output.error)
        # Decoded without the prompt, and cut at each stop string in turn, as lm-eval's `hf` does.
        texts.append(cut_at(llm.tokenizer.decode(output.outputs[0].token_ids), until))
    return texts


def sampling_params(
    arguments: Mapping[str, Any], tokenizer: Tokenizer, max_gen_toks: int, seed: int
) -> SamplingParams:
    """An lm-eval task's generation arguments as `SamplingParams`.

    Without `do_sample`, a temperature above 0 samples; `do_sample=False` is greedy whatever the
    temperature, as in lm-eval.

    Raises:
        RequestError: an argument is unknown or outside its range.
    """
    unknown = sorted(set(arguments) - set(KNOWN))
    if unknown:
        raise RequestError(
            f"the generation arguments {', '.join(unknown)} are unknown; the known ones are "
            f"{', '.join(KNOWN)}"
        )
    given = [arguments[name] for name in LENGTHS if arguments.get(name) is not None]
    stops = stop_strings(arguments, tokenizer)
    special = [i for stop in stops if (i := _special_id(stop, tokenizer)) is not None]
    return SamplingParams(
        max_tokens=given[0] if given else max_gen_toks,
        temperature=_temperature(arguments),
        stop=tuple(stops),
        # A special token has no text to be found in.
        stop_token_ids=tuple(special),
        seed=seed,
        **{name: arguments[name] for name in SAMPLING if name in arguments},
    )


def stop_strings(arguments: Mapping[str, Any], tokenizer: Tokenizer) -> list[str]:
    """`until` as a list, and the text of the tokenizer's end-of-text token."""
    until = arguments.get("until")
    stops: list[str] = [until] if isinstance(until, str) else list(until or ())
    for token in tokenizer.eos_token_ids[:1]:
        text = tokenizer.decode([token], skip_special_tokens=False)
        if text and text not in stops:
            stops.append(text)
    return stops


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of any of the stop strings."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _temperature(arguments: Mapping[str, Any]) -> float:
    temperature = arguments.get("temperature")
    sample = arguments.get("do_sample")
    if sample and not temperature:
        raise RequestError(
            f"do_sample is {sample!r} and temperature is {temperature!r}; sampling needs a "
            "temperature above 0"
        )
    return 0.0 if temperature is None or sample is False else temperature


def _special_id(text: str, tokenizer: Tokenizer) -> int | None:
    """The id of the special token that is written so, if there is one."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] in tokenizer.special_ids else None


def _room(max_length: int, max_tokens: int) -> int:
    if max_tokens >= max_length:
        raise RequestError(
            f"{max_tokens} tokens are to be generated, and max_length = {max_length} leaves no "
            "room for a context; lower max_gen_toks or raise max_length"
        )
    return max_length - max_tokens
