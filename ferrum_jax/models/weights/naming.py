"""Under which names a checkpoint holds a model's tensors, and which of its others are no fault.

A family's table has the names that a language model of transformers saves. A dump of the base model
lacks their first part; a multimodal checkpoint has a part of its own before them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ferrum_jax.models.families.published import is_wrapper, text_part

BASES = ("model", "transformer", "backbone", "gpt_neox")
"""First parts of the names of everything but the head."""
NESTED = ("language_model.model", "model.language_model", "language_model", "model.text_model")
"""What multimodal checkpoints of any age have in place of `model`."""
HEADS = ("lm_head.weight", "embed_out.weight")
BUFFERS = (
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".act_fn.beta",
    ".act_fn.eps",
    ".slope_rate",
    ".query_decay",
    ".key_decay",
    ".diagonal_decay",
)
"""Ends of the names of buffers that checkpoints hold and that the config determines."""
OTHER_MODELS = ("mtp.", "model.mtp.", "model.mtp_")
"""Beginnings of the names of what predicts several tokens at once, which no forward runs."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


@dataclass(frozen=True)
class Surroundings:
    """What a checkpoint holds beside its text model, by its `config.json`."""

    extra_layers: int = 0
    """Layers behind the last one, which predict further tokens."""
    wrapped: bool = False
    """Whether there are parts for images or sound."""

    @classmethod
    def of(cls, raw: dict[str, Any], where: str) -> Surroundings:
        """From the contents of the file."""
        text = text_part(raw, where)
        counts = [text.get(key) for key in ("num_nextn_predict_layers", "num_mtp_modules")]
        extra = max([0, *(count for count in counts if type(count) is int)])
        return cls(extra_layers=extra, wrapped=is_wrapper(raw))


@dataclass(frozen=True)
class Naming:
    """The names that a checkpoint has for those of the table."""

    stored: dict[str, str]
    scheme: Callable[[str], str]
    text: str
    """How the names of the text model begin; empty where they have nothing in common."""
    nested: bool
    """Whether they stand inside a larger model's."""


def locate(wanted: Collection[str], held: Collection[str]) -> Naming:
    """The scheme that finds most of the names wanted; names that it does not find are missing."""
    there = set(held)
    schemes: list[tuple[Callable[[str], str], str, bool]] = [
        (str, "model.", False),
        (_bare, "", False),
        (lambda name: re.sub(r"^backbone\.", "model.", name), "model.", False),
    ]
    for place in NESTED:
        begin = "language_model." if place.startswith("language_model") else f"{place}."
        schemes.append((lambda n, p=place: re.sub(r"^model\.", f"{p}.", n), begin, True))
    found = [sum(scheme(name) in there for name in wanted) for scheme, _, _ in schemes]
    scheme, begin, nested = schemes[found.index(max(found))]
    stored = {
        name: next((s for s in _spellings(scheme(name)) if s in there), scheme(name))
        for name in wanted
    }
    return Naming(stored, scheme, begin, nested)


def _bare(name: str) -> str:
    first, _, rest = name.partition(".")
    return rest if first in BASES and rest else name


def _spellings(name: str) -> Iterable[str]:
    yield name
    if name.split(".")[0] not in BASES:
        yield f"language_model.{name}"
    # Mamba's first files.
    yield re.sub(r"(^|\.)embeddings\.weight$", r"\1embedding.weight", name)


def stored_heads(held: Collection[str]) -> list[str]:
    """Names of a head that a tied model stores besides, if it does."""
    return [name for head in HEADS for name in (head, f"language_model.{head}") if name in held]


def sort_out(
    others: Iterable[str],
    naming: Naming,
    around: Surroundings,
    layers: int,
    unused: Collection[str] = (),
) -> tuple[set[str], set[str]]:
    """Of the tensors that nobody reads those that are a fault, and those of other parts.

    Args:
        layers: how many the text model has.
        unused: names, in the table's spelling, that its family knows and leaves.
    """
    unread, aside = set(), set()
    spared = {naming.scheme(name) for name in unused}
    for name in others:
        layer = _LAYER.search(name)
        behind = layer is not None and layers <= int(layer[1]) < layers + around.extra_layers
        outside = (around.wrapped or naming.nested) and naming.text
        known = f".{name}".endswith(BUFFERS) or name.startswith(OTHER_MODELS) or name in spared
        if known or behind:
            continue
        if outside and not name.startswith(naming.text) and name not in HEADS:
            aside.add(name)
        else:
            unread.add(name)
    return unread, aside
