"""The conversations that every golden template is rendered with."""

from __future__ import annotations

from typing import Any

try:
    from tests.tokenizer.tool_functions import FUNCTIONS
except ImportError:  # run as a script's neighbour
    from tool_functions import FUNCTIONS

USER = {"role": "user", "content": "What is 2 + 2?"}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <of> a city & 'more'\nin degrees",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Köln, 東京"},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "days": {"type": "array", "items": {"type": "integer"}},
                "place": {"type": "object", "properties": {"x": {"type": "number"}}},
                "mixed": {"type": ["string", "null"], "nullable": True},
            },
            "required": ["city"],
        },
        "strict": True,
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "type": "function",
            "id": "c1",
            "function": {"name": "weather", "arguments": {"unit": "c", "city": "Köln"}},
        }
    ],
}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": '{"t": 21.5}'}
REASONED = {"role": "assistant", "reasoning_content": "\nTwo and two\n", "content": "\n\n4"}
MULTI = [USER, {"role": "assistant", "content": "4. "}, {"role": "user", "content": " And 3?\n"}]
PARTS = [{"type": "image", "url": "x.png"}, {"type": "text", "text": " What is it? "}]
EMOJI = "Grüße 👩‍👩‍👧‍👦 e\u0301 한국어 <|end|> {{ bos_token }}"
DOCUMENTS = [{"title": "First", "text": "One."}, {"text": "Two.", "url": "http://x"}]

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one": ([USER], {}),
    "prompted": ([USER], {"add_generation_prompt": True}),
    "system": ([SYSTEM, USER], {"add_generation_prompt": True}),
    "turns": ([SYSTEM, *MULTI], {"add_generation_prompt": True}),
    "tools": (
        [SYSTEM, USER, CALL, RESULT, {"role": "assistant", "content": "Warm."}],
        {"tools": [WEATHER]},
    ),
    "two calls": (
        [USER, CALL | {"tool_calls": CALL["tool_calls"] * 2}, RESULT, RESULT],
        {"tools": [WEATHER, WEATHER], "add_generation_prompt": True},
    ),
    "functions": ([USER], {"tools": FUNCTIONS}),
    "documents": ([SYSTEM, USER], {"documents": DOCUMENTS, "add_generation_prompt": True}),
    "reasoning": ([USER, REASONED, USER, REASONED], {}),
    "older reasoning": ([USER, {"role": "assistant", "thinking": "hm", "content": "4"}], {}),
    "written reasoning": (
        [USER, {"role": "assistant", "content": "<think>\nso\n</think>\n\n4"}],
        {"enable_thinking": True},
    ),
    "no thinking": ([USER], {"enable_thinking": False, "add_generation_prompt": True}),
    "parts": ([{"role": "user", "content": PARTS}], {"add_generation_prompt": True}),
    "nothing said": (
        [USER, {"role": "assistant", "content": None, "tool_calls": None, "name": None}],
        {},
    ),
    "unicode": ([{"role": "user", "content": EMOJI}], {"add_generation_prompt": True}),
    "wrong order": ([USER, USER], {}),
    "unknown role": ([USER, {"role": "critic", "content": "Hm."}], {}),
    "continued": (
        [USER, {"role": "assistant", "content": "It is "}],
        {"continue_final_message": True},
    ),
    "continued parts": (
        [USER, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}],
        {"continue_final_message": True},
    ),
    "continued reasoning": (
        [USER, {"role": "assistant", "reasoning_content": "Let me", "content": ""}],
        {"continue_final_message": "reasoning_content"},
    ),
    "variables": (
        [SYSTEM, USER],
        {"date_string": "1 May", "builtin_tools": ["search", "run"], "tree": [{"n": "x"}]},
    ),
}
