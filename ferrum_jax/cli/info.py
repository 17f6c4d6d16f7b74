"""What would run: versions, device, the model's table, its memory, its cache and its shapes.

Reads config.json and generation_config.json; the weights of a local model are not touched.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ferrum_jax.cli.options import add_model_options, engine_config

HELP = "versions, device, model, memory and step shapes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_options(parser)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="compile the largest step too, to know the memory of its temporaries",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace) -> None:
    """Print what is known without running the model."""
    from ferrum_jax.runtime.record import environment, to_json

    record = {**environment(), **_describe(args)}
    if args.json:
        print(to_json(record))
    else:
        _print_record(record)


def _describe(args: argparse.Namespace) -> dict[str, Any]:
    from ferrum_jax.cli.figures import num_parameters
    from ferrum_jax.kv import slot_bytes
    from ferrum_jax.models.weights.hub import resolve_checkpoint
    from ferrum_jax.models.weights.load import load_config
    from ferrum_jax.runtime.defaults import sampling_defaults
    from ferrum_jax.runtime.directory import DEMO_MODEL, eos_token_ids
    from ferrum_jax.runtime.lengths import max_model_len
    from ferrum_jax.runtime.memory import plan_memory
    from ferrum_jax.runtime.shapes import declared_shapes
    from ferrum_jax.types import DataType

    engine, dtype = engine_config(args.engine), DataType.parse(args.dtype)
    directory = DEMO_MODEL if args.model == "demo" else resolve_checkpoint(args.model)
    config = load_config(directory)
    memory = plan_memory(config, engine, dtype, compiles=args.memory)
    cache = memory.kv
    sampling = sampling_defaults(directory)
    return {
        "model": str(args.model),
        "directory": str(directory),
        "dtype": dtype.value,
        "config": config,
        "table": str(config),
        "num_parameters": num_parameters(config),
        "weight_bytes": memory.weights,
        "engine": engine,
        "max_model_len": max_model_len(config, engine),
        "sampling": {
            "text": str(sampling),
            "params": sampling.params,
            "given": sampling.given,
            "not_applied": sampling.not_applied,
            "eos_token_ids": eos_token_ids(directory, None),
        },
        "cache": {
            "num_pages": cache.num_pages,
            "page_size": cache.page_size,
            "dtype": cache.dtype.value,
            "bytes": memory.cache,
            "tokens": (cache.num_pages - 1) * cache.page_size,
        },
        "states": {
            "sequence_bytes": slot_bytes(config),
            "bytes": memory.states,
        },
        "memory": {"text": str(memory), "total": memory.total, **asdict(memory)},
        "step_shapes": [str(shape) for shape in declared_shapes(engine)],
    }


def _print_record(record: dict[str, Any]) -> None:
    from ferrum_jax.runtime.memory import bytes_text
    from ferrum_jax.types import DeviceInfo

    cache, versions = record["cache"], record["versions"]
    rows = {
        "version": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "device": DeviceInfo(**record["device"]),
        "model": record["directory"],
        "weights": f"{record['num_parameters']:,} parameters, {record['dtype']}, "
        f"{bytes_text(record['weight_bytes'])}",
        "length": f"at most {record['max_model_len']:,} tokens a sequence",
        "cache": f"{cache['num_pages']:,} pages of {cache['page_size']} tokens, {cache['dtype']}, "
        f"{bytes_text(cache['bytes'])}, room for {cache['tokens']:,} tokens",
        **_state_row(record["states"]),
        "memory": record["memory"]["text"],
        "sampling": record["sampling"]["text"],
        "ends": _ends(record["sampling"]["eos_token_ids"]),
        "shapes": f"{len(record['step_shapes'])}: " + "; ".join(record["step_shapes"]),
    }
    for name, value in rows.items():
        print(f"{name:<8} {value}")
    print(record["table"])


def _ends(ids: tuple[int, ...]) -> str:
    """The ids that end a text, where a config names some."""
    return ", ".join(map(str, ids)) or "as the tokenizer says"


def _state_row(states: dict[str, int]) -> dict[str, str]:
    """What recurrent layers hold, in models that have some."""
    from ferrum_jax.runtime.memory import bytes_text

    if not states["sequence_bytes"]:
        return {}
    each, together = (bytes_text(states[key]) for key in ("sequence_bytes", "bytes"))
    return {"states": f"{each} a sequence, whatever its length; {together} for max_num_seqs"}
