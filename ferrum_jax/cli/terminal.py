"""The terminal of a conversation: what is typed, what is shown, and lines of earlier days.

With a person at it there are prompts, dimmed remarks and a status line; with a pipe on either side
there are answers alone, one a line, and remarks go to stderr. Importing this loads no jax.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

HISTORY_LINES = 1000
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal may take for a command: all control characters but tab and line feed."""
ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


class Terminal:
    """Where lines come from and answers go."""

    def __init__(
        self,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ):
        """None: those of the process."""
        self._in, self._out = stdin or sys.stdin, stdout or sys.stdout
        self._err = stderr or sys.stderr
        self.interactive = self._in.isatty() and self._out.isatty()
        self._colours = self.interactive and "NO_COLOR" not in os.environ
        self._status = False
        self._at_start = True

    def read(self, prompt: str) -> str:
        """The next line, without its end; a backslash at the end takes in the one below.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl-C.
        """
        lines = [self._line(prompt)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._line("." * len(prompt.rstrip()) + " "))
            except EOFError:  # what was typed counts; the next call finds the end again
                break
        return "\n".join(lines)

    def answer(self, text: str) -> None:
        """A part of an answer, at once."""
        if not text:
            return
        self.clear()
        if self.interactive:
            text = CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
            self._at_start = text.endswith("\n")
        else:
            text = text.translate(ESCAPES)
        self._out.write(text)
        self._out.flush()

    def end_answer(self) -> None:
        """The answer is over: what follows begins a line."""
        self.clear()
        if not (self.interactive and self._at_start):
            self._out.write("\n")
            self._out.flush()
        self._at_start = True

    def note(self, text: str) -> None:
        """A remark of the program's own."""
        self.clear()
        if not self.interactive:
            print(text, file=self._err, flush=True)
            return
        shown = "\n".join(f"\x1b[2m{line}\x1b[0m" for line in text.split("\n"))
        print(shown if self._colours else text, file=self._out, flush=True)

    def status(self, text: str) -> None:
        """What is being waited for, until something else is shown."""
        if self.interactive:
            self.clear()
            self._out.write(f"\x1b[2m[{text}]\x1b[0m" if self._colours else f"[{text}]")
            self._out.flush()
            self._status = True

    def clear(self) -> None:
        """Take the status away."""
        if self._status:
            self._out.write("\r\x1b[K" if self._colours else "\n")
            self._out.flush()
            self._status = False

    def _line(self, prompt: str) -> str:
        if self.interactive and self._in is sys.__stdin__:
            return input(prompt)
        if self.interactive:
            self._out.write(prompt)
            self._out.flush()
        line = self._in.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


def history_file() -> Path:
    """Where the lines of earlier conversations are: in the user's state directory (XDG)."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the standard has relative ones ignored
        state = Path.home() / ".local" / "state"
    return state / "ferrum-jax" / "chat_history"


@contextmanager
def line_history(terminal: Terminal, path: Path | None) -> Iterator[None]:
    """Arrow keys and earlier lines, where there is readline; kept in a file of mode 0600.

    Args:
        path: None: nothing is read or kept.
    """
    readline = _readline() if terminal.interactive else None
    if readline is None or path is None:
        yield
        return
    try:
        if path.exists():
            readline.read_history_file(path)
    except (OSError, UnicodeDecodeError) as error:
        terminal.note(f"[no earlier lines: {error}]")
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        mask = os.umask(0o077)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            path.chmod(0o600)  # it may have been there, or be written anew
            readline.write_history_file(path)
            path.chmod(0o600)
        except OSError as error:
            terminal.note(f"[the lines are not kept: {error}]")
        finally:
            os.umask(mask)


def _readline():
    try:
        import readline
    except ImportError:  # not on every platform
        return None
    return readline
