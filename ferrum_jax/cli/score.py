"""The log-likelihood of texts.

Every token is scored given those before it; the first has nothing before it and is not scored.
Perplexity is exp(-total / scored tokens); bits per byte divide -total / ln 2 by the UTF-8 bytes of
what was scored, so they compare models with different tokenizers.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ferrum_jax.cli.options import add_model_options, load_llm, read_texts

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.types import Score

HELP = "log-likelihood, perplexity and bits per byte of texts"
MOST_AT_ONCE = 16


@dataclass(frozen=True)
class TextScore:
    """The figures of one text; in nats."""

    text: str
    token_ids: list[int]
    tokens: list[str]
    logprobs: list[float]
    """The first is nan."""
    total: float
    perplexity: float
    """nan where no token was scored."""
    bits_per_byte: float
    """nan where no byte was scored."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("text", nargs="*", help="texts to score; - reads stdin")
    parser.add_argument(
        "--file", type=Path, action="append", default=[], help="a file that is one text"
    )
    add_model_options(parser)
    parser.add_argument("--tokens", action="store_true", help="print every token with its logprob")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace) -> None:
    """Score the texts and print them."""
    texts = read_texts(args.text, args.file)
    with load_llm(args, max_num_seqs=min(MOST_AT_ONCE, len(texts))) as llm:
        scores = llm.score(texts, progress=len(texts) > 1 and sys.stderr.isatty())
        results = [_figures(llm, t, s) for t, s in zip(texts, scores, strict=True)]
        if args.json:
            _print_json(args, llm, results)
            return
    print(f"{'tokens':>8} {'logprob':>12} {'perplexity':>12} {'bits/byte':>10}  text")
    for result in results:
        print(
            f"{len(result.token_ids):>8} {result.total:>12.3f} {_number(result.perplexity):>12} "
            f"{_number(result.bits_per_byte):>10}  {_shortened(result.text)}"
        )
        if args.tokens:
            for token, name, logprob in zip(
                result.token_ids, result.tokens, result.logprobs, strict=True
            ):
                print(f"{token:>12} {_number(logprob):>10}  {name!r}")


def _figures(llm: LLM, text: str, score: Score) -> TextScore:
    tokenizer = llm.tokenizer
    assert tokenizer is not None  # the texts have been encoded
    scored = len(score.token_ids) - 1
    # A special first token (bos) has no bytes; any other takes its own out of the account.
    unscored = tokenizer.decode(score.token_ids[:1], skip_special_tokens=True)
    num_bytes = len(text.encode("utf-8", "replace")) - len(unscored.encode("utf-8", "replace"))
    return TextScore(
        text=text,
        token_ids=score.token_ids,
        tokens=[tokenizer.token_text(token) for token in score.token_ids],
        logprobs=[float(x) for x in score.logprobs],
        total=score.total,
        perplexity=_exp(-score.total / scored) if scored else math.nan,
        bits_per_byte=-score.total / math.log(2) / num_bytes if num_bytes > 0 else math.nan,
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _number(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.4f}" if abs(x) < 1e6 else f"{x:.3e}"


def _shortened(text: str, width: int = 50) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _print_json(args: argparse.Namespace, llm: LLM, results: list[TextScore]) -> None:
    from ferrum_jax.runtime.record import environment, to_json

    record = {
        "model": args.model,
        "dtype": args.dtype,
        "engine": llm.engine_config,
        "config": llm.config,
        **environment(),
        "results": results,
    }
    print(to_json(record))
