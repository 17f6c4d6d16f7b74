"""A conversation: its turns, the tokens that the model is given of it, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

ROOM = 4
"""An answer has room for `max_tokens`, or for this part of `max_model_len` if that is less."""


@dataclass
class Turn:
    """A message and its answer."""

    message: str
    answer: str = ""


@dataclass
class Conversation:
    """Turns behind a system message, as the model's chat template renders them.

    Without a template the text is what was written: every message begins a line, every answer
    follows its message as it is, and the system message stands on top.
    """

    llm: LLM
    system: str = ""
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0
    """Turns at the beginning that no longer fit."""

    @property
    def templated(self) -> bool:
        """Whether the model has a chat template."""
        tokenizer = self.llm.tokenizer
        return tokenizer is not None and tokenizer.chat_template is not None

    def prompt(self, message: str, max_tokens: int) -> list[int]:
        """Token ids of the conversation with another message, up to where its answer begins.

        Turns that do not fit `max_model_len` beside the answer's room are left out, the oldest
        first, as few as possible; `left_out` says how many. The system message always stays.

        Raises:
            RequestError: the message does not fit even alone.
            TokenizerError: the template refuses the conversation.
        """
        from ferrum_jax.types import RequestError

        longest = self.llm.max_model_len
        room = min(max_tokens, max(1, longest // ROOM))
        for first in range(self.left_out, len(self.turns) + 1):
            ids = self._encode([*self.turns[first:], Turn(message)])
            if len(ids) <= longest - room:
                self.left_out = first
                return ids
        raise RequestError(
            f"the message takes {len(ids)} tokens with the system message, and max_model_len = "
            f"{longest} leaves room for {longest - room} beside an answer of {room}; shorten it, "
            "/set a lower max_tokens, or start with --engine max_model_len=..."
        )

    def undo(self) -> Turn | None:
        """Take the last turn back; None where there is none."""
        self.left_out = 0
        return self.turns.pop() if self.turns else None

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns.clear()
        self.left_out = 0

    def messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        """Turns as templates and files take them; the last answer may be missing."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for i, turn in enumerate(turns):
            found.append({"role": "user", "content": turn.message})
            if turn.answer or i < len(turns) - 1:
                found.append({"role": "assistant", "content": turn.answer})
        return found

    def save(self, path: Path, model: str) -> None:
        """Write the messages as JSON; raises OSError."""
        record = {"model": model, "messages": self.messages(self.turns)}
        text = json.dumps(record, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

    def load(self, path: Path) -> None:
        """Take the messages of a file in place of one's own.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no conversation; nothing has changed then.
        """
        record = json.loads(path.read_text(encoding="utf-8"))
        self.system, self.turns = _turns(record)
        self.left_out = 0

    def _encode(self, turns: list[Turn]) -> list[int]:
        if not self.templated:
            lines = [self.system] if self.system else []
            return self.llm.encode(
                "\n".join(lines + [turn.message + turn.answer for turn in turns])
            )
        return self.llm.chat_ids(self.messages(turns))


def _turns(record: Any) -> tuple[str, list[Turn]]:
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list):
        raise ValueError('it has no list "messages"')
    system, turns = "", []
    for i, message in enumerate(messages):
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, dict) else (0, 0)
        )
        if not isinstance(content, str):
            raise ValueError(f"message {i} has no text")
        if role == "system" and i == 0:
            system = content
        elif role == "user" and (not turns or turns[-1].answer):
            turns.append(Turn(content))
        elif role == "assistant" and turns and not turns[-1].answer:
            turns[-1].answer = content
        else:
            raise ValueError(f"message {i} is of role {role!r}, which does not come there")
    if turns and not turns[-1].answer:
        raise ValueError("its last message has no answer")
    return system, turns
