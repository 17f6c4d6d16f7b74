"""Continue prompts.

One prompt is streamed as it comes; several are run as a batch and printed one under the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferrum_jax.cli.options import (
    UsageError,
    add_model_options,
    given_options,
    load_llm,
    read_texts,
)

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.types import RequestOutput, SamplingParams

HELP = "continue prompts"
SAMPLING = (
    ("max_tokens", int, "tokens to generate (128)"),
    ("temperature", float, "0 is greedy (0.7)"),
    ("top_k", int, "keep the k likeliest tokens; 0 keeps all (0)"),
    ("top_p", float, "keep the likeliest tokens up to this probability together (1)"),
    ("min_p", float, "drop tokens less likely than this times the likeliest (0)"),
    ("repetition_penalty", float, "above 1 discourages tokens seen before (1)"),
    ("presence_penalty", float, "subtracted from every token generated before (0)"),
    ("frequency_penalty", float, "the same for each time it was generated (0)"),
    ("seed", int, "of the sampling (drawn afresh)"),
    ("n", int, "completions of each prompt (1)"),
    ("logprobs", int, "show each token's logprob and those of the k likeliest"),
)
"""Options that go into `SamplingParams` under the same name: type, help."""
TEMPERATURE = 0.7
"""Where neither an option nor the checkpoint says another."""
MOST_AT_ONCE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("prompt", nargs="*", help="texts to continue; - reads stdin")
    parser.add_argument(
        "--prompt-file", type=Path, action="append", default=[], help="a file that is one prompt"
    )
    add_model_options(parser)
    sampling = parser.add_argument_group(
        "sampling", "Defaults are those of the checkpoint's generation_config.json, or else these."
    )
    for name, kind, text in SAMPLING:
        sampling.add_argument("--" + name.replace("_", "-"), type=kind, help=text)
    sampling.add_argument(
        "--stop", action="append", default=[], help="a text that ends the completion; repeatable"
    )
    sampling.add_argument(
        "--ignore-eos", action="store_true", help="go on past the end-of-text token"
    )
    parser.add_argument(
        "--chat", action="store_true", help="put each prompt into the model's chat template"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace) -> None:
    """Continue the prompts and print them."""
    prompts = read_texts(args.prompt, args.prompt_file)
    from ferrum_jax.types import SamplingParams  # loads jax: not before the command line is right

    given = _given(args)
    count = SamplingParams(**given).n  # wrong values are refused before the model is loaded
    with load_llm(args, max_num_seqs=min(MOST_AT_ONCE, len(prompts) * count)) as llm:
        params = replace(llm.sampling_defaults.params, **_completed(given, llm))
        inputs = [_encode(llm, prompt, args.chat) for prompt in prompts]
        if len(prompts) == 1 and params.n == 1 and params.logprobs is None and not args.json:
            _stream(llm, prompts[0], inputs[0], params)
            return
        start = time.monotonic()
        outputs = llm.generate(inputs, params, progress=len(prompts) * params.n > 1)
        seconds = time.monotonic() - start
        if args.json:
            _print_json(args, llm, params, prompts, outputs)
        else:
            _print_outputs(llm, prompts, outputs)
            count = sum(len(c.token_ids) for out in outputs for c in out.outputs)
            _print_summary(count, count / seconds, outputs[0].metrics.time_to_first_token, llm)
    errors = [out.error for out in outputs if out.error is not None]
    if errors:
        from ferrum_jax.types import RequestError

        raise RequestError(f"{len(errors)} of {len(outputs)} prompts failed: {errors[0]}")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `SamplingParams` that options set."""
    others = {"stop": tuple(args.stop), "ignore_eos": args.ignore_eos}
    return given_options(args, SAMPLING) | {k: value for k, value in others.items() if value}


def _completed(given: dict[str, Any], llm: LLM) -> dict[str, Any]:
    """With a temperature, where neither an option nor the checkpoint has one to sample with.

    A checkpoint that asks for greedy decoding gets it, unless an option is about sampling.
    """
    recommended = llm.sampling_defaults.given.get("temperature")
    asked = {"temperature", "top_k", "top_p", "min_p", "seed", "n"} & given.keys()
    if "temperature" in given or recommended or (recommended == 0 and not asked):
        return given
    return {**given, "temperature": TEMPERATURE}


def _encode(llm: LLM, prompt: str, chat: bool) -> list[int]:
    """Token ids of a prompt, or of a conversation that begins with it."""
    if not chat:
        return llm.encode(prompt)
    if llm.tokenizer is None or llm.tokenizer.chat_template is None:
        raise UsageError("--chat: this model has no chat template")
    return llm.chat_ids([{"role": "user", "content": prompt}])


def _stream(llm: LLM, prompt: str, token_ids: list[int], params: SamplingParams) -> None:
    print(_dimmed(prompt), end="", flush=True)
    start, first, count, delta = time.monotonic(), None, 0, None
    for delta in llm.stream(token_ids, params):
        if first is None:
            first = time.monotonic()
        count += len(delta.token_ids)
        print(delta.text, end="", flush=True)
    print()
    assert first is not None
    assert delta is not None
    seconds = time.monotonic() - first
    rate = (count - 1) / seconds if count > 1 and seconds > 0 else None
    _print_summary(count, rate, first - start, llm, delta.finish_reason)


def _dimmed(text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[2m{text}\x1b[0m"


def _print_summary(
    count: int, rate: float | None, first: float | None, llm: LLM, reason: str | None = None
) -> None:
    parts = [f"{count} tokens"]
    if rate is not None:
        parts.append(f"{rate:.1f} tokens/s")
    if first is not None:
        compiling = sum(llm.compilations.values())
        parts.append(f"first token after {first:.2f} s ({compiling:.2f} s of compilation)")
    if reason is not None:
        parts.append(f"finish reason: {reason}")
    print(", ".join(parts), file=sys.stderr)


def _print_outputs(llm: LLM, prompts: list[str], outputs: list[RequestOutput]) -> None:
    for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        if i:
            print()
        for completion in output.outputs:
            number = f" {completion.index}" if len(output.outputs) > 1 else ""
            print(f"[{i}{number}: {completion.finish_reason}]")
            print(_dimmed(prompt) + completion.text)
            for token, table in zip(completion.token_ids, completion.logprobs or [], strict=False):
                entries = sorted(table.items(), key=lambda item: item[1].rank)
                others = [f"{_name(llm, i)} {p.logprob:.3f}" for i, p in entries if i != token]
                own = table[token]
                print(
                    f"  {_name(llm, token):<16} {own.logprob:8.3f}  rank {own.rank:<6}",
                    "  ".join(others),
                )


def _name(llm: LLM, token: int) -> str:
    return repr(llm.tokenizer.token_text(token)) if llm.tokenizer else str(token)


def _print_json(
    args: argparse.Namespace,
    llm: LLM,
    params: SamplingParams,
    prompts: list[str],
    outputs: list[RequestOutput],
) -> None:
    from ferrum_jax.runtime.record import environment, to_json

    results: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "prompt_token_ids": output.prompt_token_ids,
            "completions": output.outputs,
            "metrics": output.metrics,
            "time_to_first_token": output.metrics.time_to_first_token,
            "error": output.error,
        }
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    record = {
        "model": args.model,
        "dtype": args.dtype,
        "seed": params.seed,
        "sampling": params,
        "engine": llm.engine_config,
        "config": llm.config,
        **environment(),
        "compilation_seconds": {str(k): v for k, v in llm.compilations.items()},
        "results": results,
    }
    print(to_json(record))
