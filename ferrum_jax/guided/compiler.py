"""Grammars out of what requests say, each made once."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from ferrum_jax.guided.matcher import GuidedText
from ferrum_jax.interfaces import SpellingTokenizer, Tokenizer
from ferrum_jax.types import RequestError, UnsupportedError
from ferrum_jax.types.guided import checked_guided

CACHED = 256
"""Grammars that are kept, those used last."""
BLANK = r"\n?[ \t]{0,40}"
"""White space between the parts of a JSON text. Bounded, for a small model may write nothing else;
`x-guidance` in a schema has other rules, as llguidance describes them."""


class GrammarCompiler:
    """Makes grammars for one tokenizer; equal requests share one.

    Raises:
        UnsupportedError: `llguidance` is not installed, or the tokenizer's tokens have no bytes.
    """

    def __init__(self, tokenizer: Tokenizer, eos: Iterable[int], vocab_size: int):
        """Args:
        eos: ids that end a text.
        vocab_size: the model's; ids that the tokenizer does not have are never allowed.
        """
        self._vocab_size = vocab_size
        self._eos = frozenset(i for i in eos if i < vocab_size)
        self._library = _library()
        self._special_ids = tokenizer.special_ids
        self._tokens = _token_bytes(tokenizer)
        self._universe = self._library.LLTokenizer(
            self._library.TokenizerWrapper(_Universe(self._tokens, tokenizer, vocab_size)),
            eos_token=sorted(self._eos) or [vocab_size],
        )
        self._cache: OrderedDict[str, Any] = OrderedDict()

    @property
    def num_cached(self) -> int:
        """Grammars that are kept now."""
        return len(self._cache)

    def start(self, guided: Mapping[str, Any]) -> GuidedText:
        """A text at the start of the grammar that a request asks for.

        Raises:
            RequestError: it has another form, or there is no such grammar.
        """
        checked = checked_guided(guided)
        key = json.dumps(checked, sort_keys=True)
        matcher = self._cache.pop(key, None)
        if matcher is None:
            matcher = self._compile(checked)
        self._cache[key] = matcher
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return GuidedText(matcher.deep_copy(), self._vocab_size)

    def _compile(self, checked: dict[str, str]) -> Any:
        after = checked.get("after")
        kind, text = next((k, v) for k, v in checked.items() if k != "after")
        try:
            grammar = self._grammar(kind, text)
            if after is not None:
                grammar = self._behind(after, grammar)
            matcher = self._library.LLMatcher(self._universe, grammar, log_level=0)
        except Exception as error:  # the library's own: ValueError, or a panic of its parser
            raise _refused(kind, str(error)) from error
        if matcher.is_error():
            raise _refused(kind, matcher.get_error())
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_stopped():
            raise _refused(kind, "it has no text at all, or only the empty one")
        return matcher

    def _grammar(self, kind: str, text: str) -> str:
        make = self._library.LLMatcher
        if kind in ("json", "json_object"):
            return make.grammar_from_json_schema(text, defaults={"whitespace_pattern": BLANK})
        if kind == "regex":
            return make.grammar_from_regex(text)
        if kind == "choice":
            return make.grammar_from_lark("start: " + " | ".join(map(_quoted, json.loads(text))))
        return make.grammar_from_lark(text)

    def _behind(self, marker: str, grammar: str) -> str:
        """Free text up to a marker, then the grammar; a token may lie across the border."""
        inner = json.loads(grammar)["grammars"]
        inner[0]["name"] = "guided"
        spelled = marker.encode("utf-8")
        special = [i for i in sorted(self._special_ids) if self._spelled(i) == spelled]
        if self._eos.intersection(special):
            raise ValueError(f"its after, {marker!r}, is the model's end of text")
        if special:
            rule = f"start: /(?s:.*)/ <[{special[0]}]> @guided"
        else:
            rule = f"start: free @guided\nfree[suffix={_quoted(marker)}]: /(?s:.*)/"
        return json.dumps({"grammars": [{"lark_grammar": rule}, *inner]})

    def _spelled(self, token_id: int) -> bytes:
        return self._tokens[token_id] if token_id < len(self._tokens) else b""


class _Universe:
    """A tokenizer as llguidance reads one."""

    def __init__(self, tokens: list[bytes], tokenizer: Tokenizer, vocab_size: int):
        special = {i for i in tokenizer.special_ids if i < len(tokens)}
        # Ids without bytes are special too, so that no text ever has them; and so is one beyond
        # the vocabulary, that stands for the end of text where the model has none.
        known = [*tokens[:vocab_size], *[b""] * (vocab_size - len(tokens)), b""]
        special |= {i for i, token in enumerate(known) if not token}
        self.tokens = [
            token if token else f"<|special {i}|>".encode() for i, token in enumerate(known)
        ]
        self.special_token_ids = sorted(special)
        self.eos_token_id = vocab_size
        self.bos_token_id = tokenizer.bos_token_id
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False)


def _token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    if not isinstance(tokenizer, SpellingTokenizer):
        raise UnsupportedError(
            f"guided decoding needs the bytes of every token, and {type(tokenizer).__name__} has "
            "no method token_bytes"
        )
    return tokenizer.token_bytes()


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise UnsupportedError(
            "guided decoding needs llguidance; install it with pip install 'ferrum-jax[guided]'"
        ) from error
    return llguidance


def _quoted(text: str) -> str:
    """A text as a literal of Lark."""
    return json.dumps(text, ensure_ascii=False)


def _refused(kind: str, reason: str) -> RequestError:
    short = " ".join(reason.split())
    short = short if len(short) <= 400 else f"{short[:400]}..."
    return RequestError(f"guided's {kind} is no grammar that can be followed: {short}")
