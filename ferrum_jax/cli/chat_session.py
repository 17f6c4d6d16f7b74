"""A conversation with a model at a terminal: lines in, answers out as they come."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ferrum_jax.cli.chat_commands import run_command
from ferrum_jax.cli.conversation import Conversation, Turn
from ferrum_jax.cli.terminal import Terminal

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.types import SamplingParams

PROMPT = "> "


@dataclass
class AnswerStats:
    """What one answer took."""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, found in the prefix cache."""
    generated: int = 0
    first: float = 0.0
    """Seconds to the first token."""
    seconds: float = 0.0
    """From the first token to the last."""


class ChatSession:
    """Reads lines until they end: messages, and commands that begin with `/`."""

    def __init__(self, llm: LLM, params: SamplingParams, terminal: Terminal, *, model: str = ""):
        self.llm, self.params, self.terminal, self.model = llm, params, terminal, model
        self.conversation = Conversation(llm)
        self.left = False
        self.own_files: set[Path] = set()
        """Files that were saved or loaded, which may be written again."""
        self._last: AnswerStats | None = None

    def run(self) -> None:
        """Talk until `/exit` or the end of the input."""
        terminal = self.terminal
        if terminal.interactive:
            terminal.note(f"{self.model}: {self.llm}\n/help shows the commands, Ctrl-D leaves")
        if not self.conversation.templated:
            terminal.note(
                "[this model has no chat template: it continues what you write, as it stands]"
            )
        while not self.left:
            try:
                line = terminal.read(PROMPT)
            except EOFError:
                if terminal.interactive:
                    terminal.note("")
                return
            except KeyboardInterrupt:
                if not terminal.interactive:
                    raise
                terminal.note("\n[Ctrl-D or /exit leaves]")
                continue
            if line.startswith("/") and not line.startswith("//"):
                run_command(self, line)
            elif line.strip():
                self.reply(line[1:] if line.startswith("//") else line)

    def reply(self, message: str) -> bool:
        """Answer a message; whether the conversation has grown by it."""
        from ferrum_jax.types import FerrumError

        conversation, before = self.conversation, self.conversation.left_out
        turn = Turn(message)
        try:
            prompt = conversation.prompt(message, self.params.max_tokens)
            if conversation.left_out > before:
                self.terminal.note(
                    f"[max_model_len = {self.llm.max_model_len}: the oldest "
                    f"{conversation.left_out} of {len(conversation.turns)} turns are left out]"
                )
            self._generate(prompt, turn)
        except FerrumError as error:
            self.terminal.end_answer()
            self.terminal.note(f"error: {' '.join(str(error).split())}")
            return False
        if not turn.answer:
            self.terminal.note("[the answer is empty; the message is taken back]")
            return False
        conversation.turns.append(turn)
        return True

    def stats(self) -> str:
        """The last answer and the engine, as text."""
        compiled = self.llm.compilations
        lines = [f"compiled   {len(compiled)} programs, {sum(compiled.values()):.2f} s"]
        if (last := self._last) is not None:
            lines = [
                f"prompt     {last.prompt_tokens} tokens, {last.cached_tokens} of them cached, of "
                f"at most {self.llm.max_model_len}",
                f"answer     {last.generated} tokens, the first after {last.first:.2f} s",
                *lines,
            ]
            if last.generated > 1 and last.seconds > 0:
                lines.insert(2, f"speed      {(last.generated - 1) / last.seconds:.1f} tokens/s")
        turns, left_out = len(self.conversation.turns), self.conversation.left_out
        return "\n".join([*lines, f"turns      {turns}, of which {left_out} are left out"])

    def _generate(self, prompt: list[int], turn: Turn) -> None:
        """Stream the answer into the turn, and to the terminal, until it ends or Ctrl-C."""
        terminal, blocks = self.terminal, self.llm.engine.blocks
        stats, hits = AnswerStats(len(prompt), 0), blocks.num_hits
        terminal.status("reading" if self.llm.compilations else "compiling; only once")
        start = first = time.monotonic()
        reason = None
        with _stoppable() as stop:
            try:
                with closing(self.llm.stream(prompt, self.params)) as deltas:  # type: ignore[type-var]
                    for delta in deltas:
                        if not stats.generated:
                            first = time.monotonic()
                            stats.cached_tokens = blocks.num_hits - hits
                        stats.generated += len(delta.token_ids)
                        turn.answer += delta.text
                        reason = delta.finish_reason
                        terminal.answer(delta.text)
                        if stop.is_set():
                            break
            except KeyboardInterrupt:
                stop.set()
        terminal.end_answer()
        stats.first, stats.seconds = first - start, time.monotonic() - first
        self._last = stats
        if stop.is_set() and reason is None:
            terminal.note("[stopped]")
        elif reason == "length" and terminal.interactive:
            terminal.note(f"[cut off after {stats.generated} tokens; /set max_tokens N]")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that no step is broken off; a second one interrupts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
