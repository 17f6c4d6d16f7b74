"""Talk with a model in the terminal.

Answers are streamed; Ctrl-C stops one, Ctrl-D leaves, /help shows the commands. A model without a
chat template continues what is written. With a pipe in place of a person every line is a message
and every answer is one line, its line breaks written as \\n and its backslashes as \\\\.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferrum_jax.cli.options import add_engine_options, given_options, load_llm

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.types import SamplingParams

HELP = "talk with a model"
SAMPLING = (
    ("max_tokens", int, "tokens of an answer"),
    ("temperature", float, "0 is greedy"),
    ("top_k", int, "keep the k likeliest tokens; 0 keeps all"),
    ("top_p", float, "keep the likeliest tokens up to this probability together"),
    ("min_p", float, "drop tokens less likely than this times the likeliest"),
    ("repetition_penalty", float, "above 1 discourages tokens seen before"),
    ("seed", int, "of every answer (default: drawn afresh)"),
)
"""Options that go into `SamplingParams` under the same name: type, help. `/set` changes these and
others."""
OWN = {"max_tokens": 512, "temperature": 0.7}
"""What holds where neither an option nor the checkpoint's generation_config.json says otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        default="demo",
        metavar="MODEL",
        help="a Hugging Face directory, a hub id, or demo: the model in the package (the default)",
    )
    add_engine_options(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    sampling = parser.add_argument_group(
        "sampling", "by default as the checkpoint recommends; else 512 tokens, temperature 0.7"
    )
    for name, kind, text in SAMPLING:
        sampling.add_argument("--" + name.replace("_", "-"), type=kind, help=text)
    parser.add_argument(
        "--no-history", action="store_true", help="neither read nor keep the lines that are typed"
    )


def run(args: argparse.Namespace) -> None:
    """Load the model and talk until the input ends."""
    from ferrum_jax.cli.chat_session import ChatSession
    from ferrum_jax.cli.terminal import Terminal, history_file, line_history
    from ferrum_jax.types import TokenizerError

    terminal = Terminal()
    given = _given(args)
    terminal.status(f"loading {args.model}")
    try:
        llm = load_llm(args, max_num_seqs=1, prefix_caching=True)
    finally:
        terminal.clear()
    with llm:
        if llm.tokenizer is None:
            raise TokenizerError(
                f"a conversation is text, and {args.model} has no tokenizer; put tokenizer.json or "
                "tokenizer.model beside its weights"
            )
        if llm.config.is_recurrent and "prefix_caching" not in args.engine:
            # States cannot be shared: every answer computes the whole conversation.
            llm.engine_config = replace(llm.engine_config, prefix_caching=False)
        assert llm.engine is not None  # made here: what it refuses is refused before the first line
        session = ChatSession(llm, _sampling_params(given, llm), terminal, model=args.model)
        session.conversation.system = args.system
        with line_history(terminal, None if args.no_history else history_file()):
            session.run()


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What options say; wrong values are refused before the model is loaded."""
    from ferrum_jax.types import SamplingParams

    given = given_options(args, SAMPLING)
    SamplingParams(**given)
    return given


def _sampling_params(given: dict[str, Any], llm: LLM) -> SamplingParams:
    """What options say, then what the checkpoint recommends, then the command's own."""
    recommended = llm.sampling_defaults
    own = {name: value for name, value in OWN.items() if name not in recommended.given}
    return replace(recommended.params, **{**own, **given})
