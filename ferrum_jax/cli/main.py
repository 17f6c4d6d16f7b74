"""`ferrum-jax`: the parser, the dispatch, and what an error looks like.

Exit codes: 0 done, 1 a `FerrumError`, 2 a wrong command line, 130 Ctrl-C, 141 the reader of the
output went away.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from ferrum_jax.cli.options import UsageError

COMMANDS = ("generate", "chat", "score", "info", "bench")
"""Each is a module beside this one with `HELP`, `add_arguments(parser)` and `run(args)`."""
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + 13
"""What a shell reports for a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits for `--help` and misuse."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return READER_GONE
    except KeyboardInterrupt:
        if args.debug:
            raise
        return _complain("interrupted", INTERRUPTED)
    except UsageError as error:
        return _complain(f"{error}; see ferrum-jax {args.command} --help", 2)
    except Exception as error:
        if args.debug or not _is_ours(error):
            raise
        return _complain(str(error), 1)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.run` is the command's function."""
    parser = argparse.ArgumentParser(
        prog="ferrum-jax",
        description="Run, score and measure language models in JAX.",
        epilog='Try: ferrum-jax generate "The for statement"',
    )
    parser.add_argument("--version", action=_ShowVersion)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name in COMMANDS:
        module = import_module(f"ferrum_jax.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser


class _ShowVersion(argparse.Action):
    """`--version`, looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import ferrum_jax

        parser.exit(message=f"ferrum-jax {ferrum_jax.__version__}\n")


def _complain(message: str, code: int) -> int:
    """One line on stderr, whatever the message holds."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code


def _is_ours(error: Exception) -> bool:
    from ferrum_jax.types import FerrumError

    return isinstance(error, FerrumError)


def _discard_stdout() -> None:
    """Point stdout at nothing, or the interpreter complains when it flushes at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except OSError:  # stdout is no file, as under a test
        pass
    finally:
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
