"""`ferrum-jax chat`: streamed answers, commands, pipes, Ctrl-C, long conversations, a terminal."""

import io
import json
import os
import re
import select
import signal
import stat
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import ferrum_jax as fj
from ferrum_jax.cli.chat import _sampling_params
from ferrum_jax.cli.chat_session import ChatSession
from ferrum_jax.cli.options import engine_config
from ferrum_jax.cli.terminal import Terminal, history_file, line_history
from ferrum_jax.runtime.defaults import SamplingDefaults
from ferrum_jax.types import StreamDelta
from tests.runtime import hybrids

PARAMS = fj.SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
LENGTH = 160


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


class Keys(Screen):
    """Lines that are typed; an exception among them is raised in its turn."""

    def __init__(self, *lines):
        super().__init__()
        self.lines = list(lines)

    def readline(self, *_):
        if not self.lines:
            return ""
        line = self.lines.pop(0)
        if isinstance(line, type):
            raise line
        return line + "\n"


class Untemplated:
    """A tokenizer without its chat template."""

    chat_template = None

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    engine = fj.EngineConfig(
        page_size=4,
        num_pages=100,
        max_model_len=LENGTH,
        max_num_seqs=1,
        max_num_batched_tokens=64,
        prefix_caching=True,
    )
    with fj.LLM.load(checkpoint, engine=engine) as llm:
        yield llm


@pytest.fixture
def llm(loaded):
    yield loaded
    assert not loaded.engine.has_work


@pytest.fixture
def plain(llm):
    """The same model, as one that has no chat template; it shares the engine."""
    engine, driver = llm.engine, llm.driver
    found = fj.LLM(llm.config, llm.params, Untemplated(llm.tokenizer), engine=llm.engine_config)
    found._engine, found._driver = engine, driver
    return found


@pytest.fixture
def talk(llm, monkeypatch):
    """Type lines at a terminal without colours; the session and what the screen shows."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*lines, params=PARAMS, of=llm, system=""):
        screen = Screen()
        session = ChatSession(of, params, Terminal(Keys(*lines), screen, screen), model="tiny")
        session.conversation.system = system
        session.run()
        return session, screen.getvalue()

    return call


def piped(llm, *lines, params=PARAMS):
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(io.StringIO("".join(f"{line}\n" for line in lines)), out, err)
    session = ChatSession(llm, params, terminal)
    session.run()
    return session, out.getvalue(), err.getvalue()


def answer_of(llm, text, max_tokens=8):
    """What the model says behind a text, special tokens in it and all."""
    ids = llm.tokenizer.encode(text, add_special_tokens=False)
    params = replace(PARAMS, max_tokens=max_tokens)
    return llm.generate([ids], params)[0].outputs[0].text


def test_answers_are_those_of_the_templates_prompt(llm, talk):
    session, screen = talk("dog", "x", system="be brief")
    first = answer_of(llm, "<s>[system]be brief[user]dog[assistant]")
    text = f"<s>[system]be brief[user]dog[assistant]{first}[user]x[assistant]"
    assert [turn.answer for turn in session.conversation.turns] == [first, answer_of(llm, text)]
    assert "/help shows the commands" in screen
    assert screen.count("\n> ") == 3
    assert "chat template" not in screen


def test_a_second_answer_takes_the_first_from_the_cache(talk):
    session, screen = talk("The quick brown fox jumps over", "x", "/stats")
    assert session._last.cached_tokens > 8
    assert f"{session._last.cached_tokens} of them cached" in screen
    assert re.search(r"answer +8 tokens, the first after \d", screen)
    assert re.search(r"compiled +\d+ programs", screen)
    assert "turns      2, of which 0 are left out" in screen


def test_without_a_template_the_text_goes_on(llm, plain, talk):
    session, screen = talk("def main(", "return", of=plain)
    assert screen.count("no chat template: it continues what you write") == 1
    first = answer_of(llm, "<s>def main(")
    assert session.conversation.turns[0].answer == first
    assert session.conversation.turns[1].answer == answer_of(llm, f"<s>def main({first}\nreturn")
    topped, _ = talk("dog", of=plain, system="# a file")
    assert topped.conversation.turns[0].answer == answer_of(llm, "<s># a file\ndog")


def test_a_pipe_gets_an_answer_a_line_and_nothing_else(llm, plain):
    session, out, err = piped(llm, "dog", "", "/params", "x")
    answers = [turn.answer for turn in session.conversation.turns]
    lines = [a.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for a in answers]
    assert out == "".join(f"{line}\n" for line in lines)
    assert len(answers) == 2
    assert "temperature" in err
    assert "\x1b" not in out + err
    _, _, err = piped(plain, "dog")
    assert err.count("no chat template") == 1


def streaming(monkeypatch, llm, deltas):
    """Let the model say this; a number is a signal that arrives then."""

    def stream(ids, params):
        for delta in deltas:
            if isinstance(delta, int):
                signal.raise_signal(delta)
            else:
                yield StreamDelta(0, 0, delta, [7])

    monkeypatch.setattr(llm, "stream", stream)


def test_line_breaks_and_controls(monkeypatch, llm, talk):
    streaming(monkeypatch, llm, ["a\n", "b\\\r", "\x1b[2J\x9b"])
    assert piped(llm, "x")[1] == "a\\nb\\\\\\r\x1b[2J\x9b\n"
    _, screen = talk("x")
    assert "a\nb\\\\x0d\\x1b[2J\\x9b\n" in screen
    streaming(monkeypatch, llm, ["ends\n"])
    assert "ends\n> " in talk("x")[1]


def test_ctrl_c_stops_the_answer_and_not_the_program(monkeypatch, llm, talk):
    before = signal.getsignal(signal.SIGINT)
    streaming(monkeypatch, llm, ["one ", signal.SIGINT, "two ", "three "])
    session, screen = talk("x", "y")
    assert [turn.answer for turn in session.conversation.turns] == ["one two "] * 2
    assert screen.count("one two \n[stopped]\n") == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch, llm, talk):
    streaming(monkeypatch, llm, ["one ", signal.SIGINT, signal.SIGINT, "two "])
    session, screen = talk("x")
    assert session.conversation.turns[0].answer == "one "
    assert "[stopped]" in screen


def test_a_stopped_answer_leaves_the_engine_idle(monkeypatch, llm, talk):
    stream = llm.stream

    def interrupted(ids, params):
        deltas = stream(ids, params)
        try:
            for delta in deltas:
                yield delta
                signal.raise_signal(signal.SIGINT)
        finally:
            deltas.close()

    monkeypatch.setattr(llm, "stream", interrupted)
    session, _ = talk("dog", params=replace(PARAMS, max_tokens=80))
    assert session._last.generated == 2
    assert not llm.engine.has_work


def test_ctrl_c_at_the_prompt_goes_on_and_the_end_of_the_input_leaves(talk):
    session, screen = talk(KeyboardInterrupt, "dog")
    assert "[Ctrl-D or /exit leaves]" in screen
    assert len(session.conversation.turns) == 1
    assert screen.endswith("> \n")


def test_commands_change_the_conversation(talk):
    lines = ("dog", "x", "/undo", "/system speak up", "/retry", "/reset", "/undo", "/retry")
    session, screen = talk(*lines, "/exit", "never")
    assert session.conversation.turns == []
    assert session.conversation.system == "speak up"
    for said in (
        "[one turn less]",
        "[system: speak up]",
        "[a new conversation]",
        "[there is nothing to undo]",
        "[there is no message to send again]",
    ):
        assert said in screen
    assert "never" not in screen
    session, screen = talk("/system a b", "/system off", "/system")
    assert screen.count("[system: none]") == 2


def test_retry_answers_the_same_message_again(llm, talk):
    session, _ = talk("dog", "x", "/set temperature 3", "/set seed 5", "/retry")
    turns = session.conversation.turns
    assert [turn.message for turn in turns] == ["dog", "x"]
    again, _ = talk("dog", "x")
    assert turns[0].answer == again.conversation.turns[0].answer
    assert turns[1].answer != again.conversation.turns[1].answer


def test_set(talk):
    lines = ("/set max_tokens 3", "/set temperature=0.5", '/set stop ["a", "b"]', "/set top_p")
    session, screen = talk(*lines, "/set temprature 1", "/set temperature -1", "/set", "/set n 4")
    params = session.params
    assert (params.max_tokens, params.temperature, params.stop) == (3, 0.5, ("a", "b"))
    assert "top_p is 1.0" in screen
    assert "'temprature' cannot be set; did you mean temperature?" in screen
    assert "error: temperature is -1" in screen
    assert "'n' cannot be set; choose from max_tokens, min_tokens" in screen
    assert re.search(r"repetition_penalty +1\.0", screen)


def test_commands_that_are_not_there(talk):
    _, screen = talk("/rest", "/zzz", "/", "/save", "/undo it", "/help", "//x\\", "y")
    assert "there is no command /rest; did you mean /reset?" in screen
    assert screen.count("choose from /help, /exit, /reset") == 2
    assert "/save needs its FILE" in screen
    assert "/undo takes nothing behind it" in screen
    assert re.search(r"/set \[NAME VALUE\] +change a sampling parameter", screen)
    assert "Ctrl-D" in screen


def test_a_slash_can_be_sent_and_a_message_can_have_lines(talk):
    session, _ = talk("//etc is\\", "a folder", "x\\")
    assert [turn.message for turn in session.conversation.turns] == ["/etc is\na folder", "x"]


def test_save_and_load(talk, tmp_path):
    file = tmp_path / "talk.json"
    first, screen = talk("dog", "x", f"/save {file}", f"/save {file}", system="be brief")
    assert screen.count(f"[2 turns saved in {file}]") == 2
    record = json.loads(file.read_text())
    assert [m["role"] for m in record["messages"]] == ["system", *["user", "assistant"] * 2]
    second, screen = talk(f"/load {file}", f"/save {file}", "/undo")
    assert f"[2 turns of {file}]" in screen
    assert second.conversation.system == "be brief"
    assert second.conversation.turns == first.conversation.turns[:1]
    _, screen = talk(f"/save {file}")
    assert "is there already; name another file" in screen
    assert json.loads(file.read_text()) == record


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", 'it has no list "messages"'),
        ('{"messages": [{"role": "user", "content": "x"}]}', "its last message has no answer"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "message 0 is of role 'tool'"),
        ('{"messages": [{"role": "user"}]}', "message 0 has no text"),
        ('{"messages": [3]}', "message 0 has no text"),
        (None, "cannot load"),
    ],
)
def test_a_wrong_file_changes_nothing(talk, tmp_path, text, says):
    file = tmp_path / "talk.json"
    if text is not None:
        file.write_text(text)
    session, screen = talk("dog", f"/load {file}")
    assert says in screen
    assert len(session.conversation.turns) == 1


def test_the_oldest_turns_leave_when_the_conversation_is_too_long(llm, talk):
    session, screen = talk(*["The quick brown fox jumps"] * 9)
    conversation = session.conversation
    assert len(conversation.turns) == 9
    assert 0 < conversation.left_out < 9
    assert f"[max_model_len = {LENGTH}: the oldest 1 of" in screen
    kept = conversation.turns[conversation.left_out : -1]
    text = "<s>" + "".join(f"[user]{t.message}[assistant]{t.answer}" for t in kept)
    text += f"[user]{conversation.turns[-1].message}[assistant]"
    assert conversation.turns[-1].answer == answer_of(llm, text)
    room = len(llm.tokenizer.encode(text, add_special_tokens=False)) + PARAMS.max_tokens
    assert room <= LENGTH


def test_a_message_that_is_too_long_is_refused_and_the_rest_goes_on(llm, talk):
    session, screen = talk("dog", "word " * 200, "x")
    assert re.search(rf"error: the message takes \d+ tokens .* max_model_len = {LENGTH}", screen)
    assert [turn.message for turn in session.conversation.turns] == ["dog", "x"]
    session, out, err = piped(llm, "word " * 200, "dog")
    assert out.startswith("\n")
    assert out.count("\n") == 2
    assert "error: the message takes" in err


def test_an_answer_that_fails_or_is_empty_is_no_turn(monkeypatch, llm, talk):
    def fails(ids, params):
        yield StreamDelta(0, 0, "one", [7])
        raise fj.RequestError("the logits\nare not finite")

    monkeypatch.setattr(llm, "stream", fails)
    session, screen = talk("x")
    assert "one\nerror: the logits are not finite\n" in screen
    assert session.conversation.turns == []
    streaming(monkeypatch, llm, [""])
    session, screen = talk("x")
    assert "[the answer is empty; the message is taken back]" in screen
    assert session.conversation.turns == []


def test_a_retry_that_fails_keeps_the_answer(monkeypatch, llm, talk):
    stream = llm.stream
    calls = []

    def second_fails(ids, params):
        calls.append(ids)
        if len(calls) > 1:
            raise fj.RequestError("no")
        return stream(ids, params)

    monkeypatch.setattr(llm, "stream", second_fails)
    session, screen = talk("dog", "/retry")
    assert "error: no" in screen
    assert [turn.message for turn in session.conversation.turns] == ["dog"]


def test_what_is_waited_for_is_shown_and_taken_away(monkeypatch, llm):
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen()
    ChatSession(llm, PARAMS, Terminal(Keys("dog"), screen, screen)).run()
    assert re.search(
        r"\x1b\[2m\[(compiling; only once|reading)\]\x1b\[0m\r\x1b\[K", screen.getvalue()
    )
    out = Screen()
    Terminal(io.StringIO(), out, io.StringIO()).status("compiling")
    assert out.getvalue() == ""


def test_where_the_history_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "ferrum-jax" / "chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "ferrum-jax" / "chat_history"


def test_history_is_the_users_alone(tmp_path):
    readline = pytest.importorskip("readline", reason="no readline on this platform")
    file = tmp_path / "state" / "chat_history"
    terminal = Terminal(Keys(), Screen(), Screen())
    readline.clear_history()
    with line_history(terminal, file):
        readline.add_history("a secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    readline.clear_history()
    with line_history(terminal, file):
        assert readline.get_history_item(1) == "a secret"
    readline.clear_history()
    with line_history(terminal, None):
        assert readline.get_current_history_length() == 0
    pipe = Terminal(io.StringIO(), io.StringIO(), io.StringIO())
    with line_history(pipe, tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    screen = Screen()
    with line_history(Terminal(Keys(), screen, screen), tmp_path / "file" / "chat_history"):
        pass
    assert "the lines are not kept" in screen.getvalue()


def test_the_command_reads_a_pipe(run, checkpoint, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\nx\n"))
    code, out, err = run(
        "chat", checkpoint, "--max-tokens", 4, "--temperature", 0, "--engine", "max_model_len=64"
    )
    assert (code, err) == (0, "")
    assert out.count("\n") == 2
    code, _, err = run("chat", "no/such/place")
    assert code == 1
    assert "no such directory" in err
    code, _, err = run("chat", checkpoint, "--temperature", -1)
    assert code == 1
    assert "temperature is -1.0" in err


def test_options_go_over_the_checkpoint_and_that_over_the_command():
    recommended = SamplingDefaults(
        fj.SamplingParams(temperature=0.2, top_p=0.9), {"temperature": 0.2}
    )
    llm = SimpleNamespace(sampling_defaults=recommended)
    params = _sampling_params({"top_p": 0.5}, llm)
    assert (params.temperature, params.top_p, params.max_tokens) == (0.2, 0.5, 512)
    params = _sampling_params({}, SimpleNamespace(sampling_defaults=SamplingDefaults()))
    assert (params.temperature, params.top_p, params.max_tokens) == (0.7, 1.0, 512)


@pytest.fixture
def recurrent(llm, monkeypatch):
    """Let the command load a model whose states no cache of prefixes can hold."""
    config = hybrids.model("short conv")
    tokenizer, params = llm.tokenizer, hybrids.weights(config)

    def load(args, **defaults):
        return fj.LLM(config, params, tokenizer, engine=engine_config(args.engine, **defaults))

    monkeypatch.setattr("ferrum_jax.cli.chat.load_llm", load)


def test_a_recurrent_model_does_without_the_prefix_cache(run, recurrent, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\n"))
    sizes = "max_model_len=64,max_num_batched_tokens=32"
    code, out, err = run("chat", "--max-tokens", 3, "--seed", 1, "--engine", sizes)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    code, out, err = run("chat", "--engine", f"{sizes},prefix_caching=true")
    assert (code, out) == (1, "")
    assert "use prefix_caching=False" in err


def test_a_model_without_a_tokenizer_is_refused(run, llm, monkeypatch):
    bare = fj.LLM(llm.config, llm.params)
    monkeypatch.setattr("ferrum_jax.cli.chat.load_llm", lambda *_, **__: bare)
    code, _, err = run("chat")
    assert code == 1
    assert "a conversation is text, and demo has no tokenizer" in err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals there")
def test_a_terminal(start, checkpoint, tmp_path, monkeypatch):
    """A real one: prompts, streaming, Ctrl-C in an answer, lines kept, Ctrl-D."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    process = start(
        "chat",
        checkpoint,
        "--max-tokens",
        6000,
        "--seed",
        1,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = ""

    def wait_for(pattern, seconds=120):
        nonlocal seen
        end = time.monotonic() + seconds
        while not re.search(pattern, seen):
            assert time.monotonic() < end, seen
            if select.select([master], [], [], 1)[0]:
                seen += os.read(master, 4096).decode("utf-8", "replace")

    def press(keys):
        nonlocal seen
        seen = ""
        os.write(master, keys.encode())

    try:
        wait_for("> ")
        assert "/help shows the commands" in seen
        press("/set ignore_eos true\r")
        wait_for(r"\[ignore_eos = True\][^>]*> ")
        press("dog\r")
        wait_for(r"\x1b\[0m\r\x1b\[K")  # the status has gone: the answer begins
        process.send_signal(signal.SIGINT)
        wait_for(r"\[stopped\][^>]*> ")
        press("\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    kept = tmp_path / "ferrum-jax" / "chat_history"
    assert kept.read_text().split("\n")[-3:] == ["/set ignore_eos true", "dog", ""]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
