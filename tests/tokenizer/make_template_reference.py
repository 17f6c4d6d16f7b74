"""What transformers makes of the templates here: `templates/golden.json`, for the tests.

    python tests/tokenizer/make_template_reference.py

Run where transformers is installed, after a template or a conversation was changed.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from conversations import CONVERSATIONS
from tool_functions import FUNCTIONS
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent / "templates"
NOW = datetime(2025, 3, 4, 5, 6, 7)


class FixedClock(datetime):
    """The time that the tests set, too."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def main() -> None:
    """Render every template with every conversation; note texts, spans and refusals."""
    chat_template_utils.datetime = FixedClock
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, "<s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>"
    )
    rendered: dict[str, dict[str, Any]] = {}
    for path in sorted(HERE.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        rendered[path.stem] = {
            name: _render(tokenizer, source, messages, options)
            for name, (messages, options) in CONVERSATIONS.items()
        }
    schemas = [chat_template_utils.get_json_schema(function) for function in FUNCTIONS]
    record = {
        "transformers": transformers.__version__,
        "schemas": schemas,
        "rendered": rendered,
    }
    text = json.dumps(record, ensure_ascii=False, indent=1)
    (HERE / "golden.json").write_text(text + "\n", encoding="utf-8")


def _render(tokenizer: Any, source: str, messages: list[Any], options: dict[str, Any]) -> Any:
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, **options
        )
    except Exception as error:  # whatever a template and a conversation that misfit raise
        return {"error": type(error).__name__, "says": str(error).splitlines()[0]}
    if "generation %}" not in source or "continue_final_message" in options:
        return text
    plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
    _, spans = chat_template_utils.render_jinja_template(
        [plain],
        chat_template=source,
        return_assistant_tokens_mask=True,
        **{"bos_token": "<s>", "eos_token": "</s>", **options},
    )
    return {"text": text, "spans": spans[0]}


if __name__ == "__main__":
    main()
