"""Templates of our own, rendered byte for byte as transformers renders them (`golden.json`)."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from ferrum_jax.tokenizer import ChatTemplates
from ferrum_jax.tokenizer.tools import tool_schema
from ferrum_jax.types.errors import FerrumError, RequestError
from tests.tokenizer.conversations import CONVERSATIONS
from tests.tokenizer.tool_functions import FUNCTIONS

HERE = Path(__file__).parent / "templates"
GOLDEN = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in HERE.glob("*.jinja")}


class FixedClock(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime(2025, 3, 4, 5, 6, 7)


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch):
    monkeypatch.setattr("ferrum_jax.tokenizer.guards.datetime", FixedClock)


def test_the_goldens_are_of_these_templates():
    assert set(GOLDEN["rendered"]) == set(TEMPLATES)
    assert len(TEMPLATES) >= 12
    assert all(set(texts) == set(CONVERSATIONS) for texts in GOLDEN["rendered"].values())


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_rendered_as_transformers_does(name):
    chat = ChatTemplates({"default": TEMPLATES[name]}, {"bos_token": "<s>", "eos_token": "</s>"})
    for title, (messages, options) in CONVERSATIONS.items():
        want = GOLDEN["rendered"][name][title]
        options = {"add_generation_prompt": False, **options}
        if isinstance(want, dict) and "error" in want:
            kind = RequestError if want["error"] == "TemplateError" else FerrumError
            with pytest.raises(kind) as refused:
                chat.render(messages, **options)
            if kind is RequestError:
                assert want["says"] in str(refused.value)
            continue
        if "CONTINUE_FINAL_MESSAGE_TAG" in str(want):  # the tag that transformers leaves behind
            with pytest.raises(RequestError, match="more than once"):
                chat.render(messages, **options)
            continue
        found = chat.render_spans(messages, **options)
        spans = want["spans"] if isinstance(want, dict) else found.spans
        assert found.text == (want["text"] if isinstance(want, dict) else want), title
        assert found.spans == tuple(map(tuple, spans)), title


def test_generation_blocks_are_spanned():
    spanned = GOLDEN["rendered"]["training"]["turns"]
    assert [spanned["text"][slice(*span)] for span in spanned["spans"]] == ["4. </a>"]


def test_schemas_of_python_functions():
    assert [tool_schema(function) for function in FUNCTIONS] == GOLDEN["schemas"]


def untyped(a):
    """Add.

    Args:
        a: A number
    """


def undescribed(a: int):
    """Add."""


def unspeakable(a: set[int]):
    """Add.

    Args:
        a: A set
    """


def undocumented(a: int):
    pass


@pytest.mark.parametrize("function", [untyped, undescribed, unspeakable, undocumented])
def test_functions_without_a_schema(function):
    chat = ChatTemplates({"default": "{{ tools }}"}, {})
    with pytest.raises(RequestError, match=f"{function.__name__} has no schema"):
        chat.render([{"role": "user", "content": "x"}], tools=[function])
