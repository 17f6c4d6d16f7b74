"""What begins with `/` in a conversation: a function of the session and the text for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ferrum_jax.cli.options import literal

if TYPE_CHECKING:
    from ferrum_jax.cli.chat_session import ChatSession

SETTABLE = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "tfs_z",
    "mirostat",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "bad_words",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "seed",
)
"""Fields of `SamplingParams` that `/set` changes."""


class Command(NamedTuple):
    """A command, and what `/help` says of it."""

    arguments: str
    help: str
    run: Callable[[ChatSession, str], None]


def run_command(session: ChatSession, line: str) -> None:
    """Do what a line with a `/` in front asks for; a mistake is only noted."""
    name, _, text = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        session.terminal.note(f"there is no command /{name}; {_nearest(name, COMMANDS, '/')}")
        return
    text = text.strip()
    if not text and command.arguments and not command.arguments.startswith("["):
        session.terminal.note(f"/{name} needs its {command.arguments}; see /help")
    elif text and not command.arguments:
        session.terminal.note(f"/{name} takes nothing behind it; see /help")
    else:
        command.run(session, text)


def _nearest(name: str, known: object, mark: str = "") -> str:
    names = list(known)  # type: ignore[call-overload]
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {mark}{close[0]}?"
    return "choose from " + ", ".join(mark + name for name in names)


def _help(session: ChatSession, text: str) -> None:
    rows = [(f"/{name} {command.arguments}", command.help) for name, command in COMMANDS.items()]
    rows += [
        ("//TEXT", "send a message that begins with /"),
        ("\\ at a line's end", "the message goes on in the next line"),
        ("Ctrl-C", "stop the answer; at once, if pressed again"),
        ("Ctrl-D", "leave"),
    ]
    width = max(len(left) for left, _ in rows)
    session.terminal.note("\n".join(f"{left:<{width}}  {right}" for left, right in rows))


def _exit(session: ChatSession, text: str) -> None:
    session.left = True


def _reset(session: ChatSession, text: str) -> None:
    session.conversation.clear()
    session.terminal.note("[a new conversation]")


def _system(session: ChatSession, text: str) -> None:
    conversation = session.conversation
    if text:
        conversation.system = "" if text == "off" else text
    session.terminal.note(f"[system: {conversation.system or 'none'}]")


def _undo(session: ChatSession, text: str) -> None:
    turn = session.conversation.undo()
    session.terminal.note("[there is nothing to undo]" if turn is None else "[one turn less]")


def _retry(session: ChatSession, text: str) -> None:
    turn = session.conversation.undo()
    if turn is None:
        session.terminal.note("[there is no message to send again]")
    elif not session.reply(turn.message):
        session.conversation.turns.append(turn)  # it failed: what was there stays


def _set(session: ChatSession, text: str) -> None:
    from ferrum_jax.types import FerrumError

    name, _, value = text.replace("=", " ", 1).partition(" ")
    value = value.strip()
    if not name:
        _params(session, "")
    elif name not in SETTABLE:
        session.terminal.note(f"{name!r} cannot be set; {_nearest(name, SETTABLE)}")
    elif not value:
        session.terminal.note(f"{name} is {getattr(session.params, name)!r}")
    else:
        try:
            session.params = replace(session.params, **{name: literal(value)})
        except FerrumError as error:
            session.terminal.note(f"error: {error}")
            return
        session.terminal.note(f"[{name} = {getattr(session.params, name)!r}]")


def _params(session: ChatSession, text: str) -> None:
    session.terminal.note(
        "\n".join(f"{name:<19} {getattr(session.params, name)!r}" for name in SETTABLE)
    )


def _save(session: ChatSession, text: str) -> None:
    path = Path(text).expanduser()
    if path.exists() and path not in session.own_files:
        session.terminal.note(f"{path} is there already; name another file")
        return
    try:
        session.conversation.save(path, session.model)
    except OSError as error:
        session.terminal.note(f"error: cannot write {path}: {error}")
        return
    session.own_files.add(path)
    session.terminal.note(f"[{len(session.conversation.turns)} turns saved in {path}]")


def _load(session: ChatSession, text: str) -> None:
    path = Path(text).expanduser()
    try:
        session.conversation.load(path)
    except json.JSONDecodeError as error:
        session.terminal.note(f"error: {path} is not JSON: {error}")
    except (OSError, ValueError) as error:
        session.terminal.note(f"error: cannot load {path}: {error}")
    else:
        session.own_files.add(path)
        session.terminal.note(f"[{len(session.conversation.turns)} turns of {path}]")


def _stats(session: ChatSession, text: str) -> None:
    session.terminal.note(session.stats())


COMMANDS = {
    "help": Command("", "this table", _help),
    "exit": Command("", "leave", _exit),
    "reset": Command("", "forget the turns; the system message stays", _reset),
    "system": Command("[TEXT | off]", "show or change the system message", _system),
    "undo": Command("", "take the last turn back", _undo),
    "retry": Command("", "answer the last message once more", _retry),
    "set": Command("[NAME VALUE]", "change a sampling parameter, as in /set temperature 0", _set),
    "params": Command("", "the sampling parameters", _params),
    "save": Command("FILE", "write the conversation as JSON", _save),
    "load": Command("FILE", "take up a saved conversation", _load),
    "stats": Command("", "tokens, speed, and what was cached and compiled", _stats),
}
