"""What the two sides are, as plain data for the record, and what they differ in."""

from __future__ import annotations

import json
from typing import Any

from ferrum_jax.research.compare.side import ModelSide, Side, weights_of
from ferrum_jax.research.sweep.describe import describe
from ferrum_jax.research.sweep.variant import Variant
from ferrum_jax.runtime.record import to_json, weights_digest

DIGEST_LETTERS = 12
Settings = dict[str, Any]


def settings_of(a: Side, b: Side) -> tuple[Settings, Settings]:
    """Each side as plain data. Weights that both share are read once for their digest."""
    first = _settings(a, None)
    same = isinstance(a, ModelSide) and isinstance(b, ModelSide) and a.llm.params is b.llm.params
    return first, _settings(b, first["weights"] if same else None)


def differences(a: Side, b: Side, settings: tuple[Settings, Settings]) -> tuple[str, ...]:
    """What b has other than a, a line each: `dtype float32 -> bfloat16`, `kv_dtype int8`."""
    if not isinstance(a, ModelSide) or not isinstance(b, ModelSide):
        return ()
    old, new = settings
    lines = [f"dtype {old['dtype']} -> {new['dtype']}"] if old["dtype"] != new["dtype"] else []
    if old["weights"] != new["weights"]:
        lines.append(f"weights {_short(old['weights'])} -> {_short(new['weights'])}")
    one, other = a.llm, b.llm
    config = None if one.config == other.config else other.config
    engine = None if one.engine_config == other.engine_config else other.engine_config
    if config is not None or engine is not None:
        lines.append(describe(Variant(config=config, engine=engine), one))
    if old["edits"] != new["edits"] or old["edits_sha256"] != new["edits_sha256"]:
        lines.append(f"edits {old['edits'] or 'none'} -> {new['edits'] or 'none'}")
    return tuple(lines)


def headline(settings: Settings) -> str:
    """One line that says what a side is."""
    if settings["kind"] == "saved":
        kept = "whole distributions" if settings["top_k"] is None else f"top {settings['top_k']}"
        return f"{settings['name']}, saved log-probabilities ({kept}, {settings['dtype']})"
    config = settings["config"]
    parts = [
        f"{config['model_type']}, {len(config['layers'])} layers of {config['hidden_size']}",
        settings["dtype"],
        f"weights {_short(settings['weights'])}",
    ]
    if settings["edits"]:
        parts.append(f"edited ({settings['edits']})")
    return ", ".join(parts)


def _settings(side: Side, weights: str | None) -> Settings:
    if not isinstance(side, ModelSide):
        saved = side.saved
        facts = {"name": saved.name, "path": saved.path, "dtype": saved.dtype, "top_k": saved.top_k}
        return {"kind": "saved", "weights": None, **facts}
    taps = side.taps
    edited = taps is not None and taps.acts
    changes = None if taps is None else taps.edits
    if taps is not None and taps.adapters is not None:
        changes = (taps.edits, taps.adapters)
    found = {
        "kind": "model",
        "weights": weights or weights_digest(side.llm.params),
        "dtype": ", ".join(sorted({x.dtype.name for x in weights_of(side)})),
        "edits": describe(Variant(taps=taps), side.llm) if edited else "",
        "edits_sha256": weights_digest(changes) if edited else None,
        "config": side.llm.config,
        "engine": side.llm.engine_config,
    }
    return json.loads(to_json(found))


def _short(digest: str) -> str:
    return digest[:DIGEST_LETTERS]
