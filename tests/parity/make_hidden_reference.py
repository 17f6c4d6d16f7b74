"""What transformers computes inside its layers: `hidden/<case>.npz`, for `test_hidden.py`.

    python tests/parity/make_hidden_reference.py [case ...]

Runs where `make_reference.py` runs, after it, and builds the same models from its seeds: one case
of each family, with windows, soft caps, sandwich norms, biases or experts where the family has
them. Each file holds, of one uncached float32 forward with eager attention over the first tokens of
the case's first sequence, an array per site and layer, named `site.layer`:

    resid_pre.0, resid_mid, resid_post, attn_out, mlp_out    [T, D]
    pattern       attention weights after the softmax         [T, N, S], S = T
    router        logits, in layers with experts              [T, E]

The first axis is the token's throughout. `resid_pre` of a later layer is the `resid_post` before
it. transformers' own `hidden_states` (whose last entry comes after the final norm) and what the
hooks here see are checked to be the same bits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cases import CASES, Case
from make_reference import GOLDEN, load_seeded, save_untrained
from random_weights import make_tokens

HIDDEN = Path(__file__).parent / "hidden"
NAMES = (
    "gemma2",
    "gemma3_text_rope",
    "llama_bias",
    "mistral_window",
    "mixtral_window",
    "qwen2_layer_types",
    "qwen3_moe_dense_layers",
    "qwen3_window",
)
NUM_TOKENS = 24
"""Three windows of the cases that have one."""


@contextmanager
def watched(model: torch.nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """What each layer adds to the residual stream, and the stream itself, while the block runs."""
    seen: dict[str, np.ndarray] = {}
    handles = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any = None) -> None:
            value = inputs if output is None else output
            value = value[0] if isinstance(value, tuple) else value
            seen[name] = value.detach().reshape(-1, value.shape[-1]).numpy().copy()

        return hook

    for i, layer in enumerate(model.model.layers):
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        before_mlp = layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm
        attention = layer.post_attention_layernorm if sandwich else layer.self_attn
        feed_forward = layer.post_feedforward_layernorm if sandwich else layer.mlp
        handles += [
            before_mlp.register_forward_pre_hook(keep(f"resid_mid.{i}")),
            layer.register_forward_hook(keep(f"resid_post.{i}")),
            attention.register_forward_hook(keep(f"attn_out.{i}")),
            feed_forward.register_forward_hook(keep(f"mlp_out.{i}")),
        ]
        for module in layer.modules():
            if type(module).__name__.endswith("TopKRouter"):
                handles.append(module.register_forward_hook(keep(f"router.{i}")))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def activations(model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every stored array of one forward, by `site.layer`."""
    with watched(model) as seen:
        out = model(
            torch.from_numpy(ids).long()[None],
            use_cache=False,
            output_hidden_states=True,
            output_attentions=True,
        )
    hidden = [state[0].numpy() for state in out.hidden_states]
    layers = len(model.model.layers)
    assert len(hidden) == layers + 1
    for i in range(1, layers):
        assert np.array_equal(hidden[i], seen[f"resid_post.{i - 1}"]), f"layer {i}"
    last = torch.from_numpy(seen[f"resid_post.{layers - 1}"])
    assert np.array_equal(hidden[layers], model.model.norm(last).numpy())
    patterns = {
        f"pattern.{i}": weights[0].numpy().transpose(1, 0, 2)
        for i, weights in enumerate(out.attentions)
    }
    return {"resid_pre.0": hidden[0], **seen, **patterns}


def make_case(case: Case) -> int:
    """Writes hidden/<case>.npz and returns its size in bytes."""
    record = json.loads((GOLDEN / f"{case.name}.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        checkpoint = save_untrained(case, directory)
        model = load_seeded(case, checkpoint, directory, record["seed"])
    length, vocab = case.lengths[0], case.config["vocab_size"]
    ids = make_tokens("sequence0", length, vocab, record["seed"])[:NUM_TOKENS]
    path = HIDDEN / f"{case.name}.npz"
    np.savez_compressed(
        path,
        tokens=ids,
        transformers=np.asarray(transformers.__version__),
        **activations(model, ids),
    )
    return path.stat().st_size


def main(arguments: list[str]) -> None:
    """Makes the named cases, or one of each family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="names from cases.py; NAMES if none is given")
    names = parser.parse_args(arguments).case or list(NAMES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"unknown cases {unknown}; known: {', '.join(CASES)}")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    HIDDEN.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {make_case(CASES[name])} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
