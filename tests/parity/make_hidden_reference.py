"""What transformers computes inside its layers: `hidden/<case>.npz`, for `test_hidden.py`.

    python tests/parity/make_hidden_reference.py [case ...]

Runs where `make_reference.py` runs, after it, and builds the same models from its seeds: one case
of each model type. Each file holds, of one uncached float32 forward with eager attention over the
first tokens of the case's first sequence, some of the tokens' activations, one array per site with
all layers that have it on its first axis:

    tokens                     [T], all that were run
    rows                       [R], the tokens whose activations are kept
    SITE                       [layers, R, ...]
    SITE.layers                which layers these are

    resid_pre, resid_mid, resid_post      [D], the residual stream
    attn_out, mixer_out, mlp_out          [D], what is added to it, by attention, a recurrence and
                                          the feed-forward block, norms and factors behind included
    pattern                               [N, T], attention weights after the softmax
    router                                [E], logits, in layers with experts

`resid_pre` is the first layer's alone: that of a later one is the `resid_post` before it, which is
checked here to be the same bits. Sites are found by the structure of transformers' layers: `Sites`
has the names of modules and what differs between model types.
"""

from __future__ import annotations

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
from make_reference import GOLDEN, chosen_cases, load_seeded, save_untrained
from random_weights import make_tokens

HIDDEN = Path(__file__).parent / "hidden"
RICH = {
    "gemma3_text": "gemma3_text_rope",
    "llama": "llama_bias",
    "mistral": "mistral_window",
    "mixtral": "mixtral_window",
    "qwen2": "qwen2_layer_types",
    "qwen3": "qwen3_window",
    "qwen3_moe": "qwen3_moe_dense_layers",
}
"""Cases with more in them than the one that is called as its model type."""
NAMES = tuple(
    sorted(
        RICH.get(case.model_type, name) for name, case in CASES.items() if name == case.model_type
    )
)
NUM_TOKENS = 24
"""Three windows of the cases that have one."""
ROWS = (2, 11, 23)
RECURRENT = ("Mixer", "Mamba", "Delta", "Lightning", "ShortConv")
"""Parts of the names of classes that are recurrences."""
FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "shared_mlp", "fc2")
BEFORE_FEED_FORWARD = (
    "pre_feedforward_layernorm",
    "pre_ff_layernorm",
    "feedforward_layernorm",
    "ffn_norm",
    "ln_2",
    "final_layer_norm",
    "post_attention_layernorm",
)
"""Norms that read the stream amid a layer, the first that a layer has."""
BEHIND = {
    "post_feedforward_layernorm": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "post_mlp_layernorm": ("post_self_attn_layernorm", "post_mlp_layernorm"),
}
"""Norms whose outputs are added, by the name that tells of them."""
ADDED_INSIDE = {"BloomAttention": "dense", "BloomMLP": "dense_4h_to_h"}
"""Blocks that add the residual themselves: what they add comes from this part."""


class Sites:
    """Hooks of one layer; `found` has an array per `site.layer`, rows chosen."""

    def __init__(self, found: dict[str, np.ndarray], layer: torch.nn.Module, index: int):
        self.found, self.layer, self.index = found, layer, index
        self.handles: list[Any] = [
            layer.register_forward_pre_hook(self._before, with_kwargs=True),
            layer.register_forward_hook(self._keep("resid_post")),
        ]
        behind = next((norms for key, norms in BEHIND.items() if hasattr(layer, key)), None)
        for name, module in layer.named_children():
            site = _added_by(name, type(module).__name__)
            if site is not None:
                self._watch(site, module, behind)
        if behind is not None:
            for site, norm in zip(("attn_out", "mlp_out"), behind, strict=True):
                self._hook(getattr(layer, norm), self._keep(site))
        self._amid(behind)

    def _watch(self, site: str, module: torch.nn.Module, behind: Any) -> None:
        """What a block adds, its attention weights and its router's logits."""
        if site == "attn_out":
            self._hook(module, self._pattern)
        part = ADDED_INSIDE.get(type(module).__name__)
        added = module if part is None else getattr(module, part)
        if behind is None:
            self._hook(added, self._keep(site, factor=_factor(self.layer, module, site)))
        for inner in module.modules():
            if type(inner).__name__.lower().endswith("topkrouter"):
                self._hook(inner, self._keep("router"))
            if type(inner).__name__ == "Llama4Router":
                self._hook(inner, self._keep("router", part=1))

    def _amid(self, behind: Any) -> None:
        """The stream between the blocks, where they follow each other."""
        if any(getattr(self.layer, flag, False) for flag in ("use_parallel_residual",)):
            return
        names = [name for name in BEFORE_FEED_FORWARD if hasattr(self.layer, name)]
        if behind is not None and names[0] == behind[0]:  # no norm before the block
            self._hook(self.layer.mlp, self._input)
        elif names:
            self._hook(getattr(self.layer, names[0]), self._input)

    def _hook(self, module: torch.nn.Module, hook: Callable[..., None]) -> None:
        self.handles.append(module.register_forward_hook(hook))

    def _before(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self._put("resid_pre", args[0] if args else kwargs["hidden_states"])

    def _input(self, module: torch.nn.Module, args: tuple, output: Any) -> None:
        self._put("resid_mid", args[0])

    def _keep(self, site: str, *, part: int = 0, factor: float = 1.0) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple, output: Any) -> None:
            value = output[part] if isinstance(output, tuple) else output
            self._put(site, value * factor, added=site.endswith("_out"))

        return hook

    def _pattern(self, module: torch.nn.Module, args: tuple, output: Any) -> None:
        if output[1] is not None:
            self._put("pattern", output[1][0].transpose(0, 1), axes=2)

    def _put(self, site: str, value: torch.Tensor, axes: int = 1, added: bool = False) -> None:
        kept = value.detach().reshape(-1, *value.shape[-axes:])[list(ROWS)].numpy().copy()
        name = f"{site}.{self.index}"
        self.found[name] = self.found[name] + kept if added and name in self.found else kept


def _added_by(name: str, kind: str) -> str | None:
    """The site of what a part of a layer, by its name and its class, adds to the stream."""
    if "Norm" in kind:
        return None
    if any(part in kind for part in RECURRENT):
        return "mixer_out"
    if "Attention" in kind:
        return "attn_out"
    return "mlp_out" if name in FEED_FORWARD or name == "mixer" else None


def _factor(layer: torch.nn.Module, module: torch.nn.Module, site: str) -> float:
    """What a layer multiplies a block's output by before it adds it."""
    if hasattr(layer, "residual_multiplier"):
        return layer.residual_multiplier
    if hasattr(layer, "ssm_out_multiplier"):
        names = {"mixer_out": "ssm_out_multiplier", "attn_out": "attn_out_multiplier"}
        return getattr(layer, names[site]) if site in names else 1.0
    if hasattr(layer, "mlp_beta_factor"):
        return layer.mlp_beta_factor if site == "mlp_out" else layer.attn_beta_factor
    return 1.0


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The decoder's layers: the first list of modules."""
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))


@contextmanager
def watched(model: torch.nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """What the layers add to the residual stream, and the stream itself, while the block runs."""
    found: dict[str, np.ndarray] = {}
    hooks = [Sites(found, layer, i) for i, layer in enumerate(layers_of(model))]
    try:
        yield found
    finally:
        for handle in (handle for sites in hooks for handle in sites.handles):
            handle.remove()


@torch.no_grad()
def activations(model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every stored array of one forward, by `site` and `site.layers`."""
    attends = any("Attention" in type(m).__name__ for m in model.modules())
    options = {"output_attentions": True} if attends else {}
    with watched(model) as found:
        model(torch.from_numpy(ids).long()[None], use_cache=False, **options)
    for i in range(1, len(layers_of(model))):
        before, after = found.pop(f"resid_pre.{i}"), found[f"resid_post.{i - 1}"]
        assert np.array_equal(before, after), f"layer {i}"
    by_site: dict[str, dict[int, np.ndarray]] = {}
    for name, array in found.items():
        site, layer = name.split(".")
        by_site.setdefault(site, {})[int(layer)] = array
    arrays = {}
    for site, layers in sorted(by_site.items()):
        arrays[site] = np.stack([layers[i] for i in sorted(layers)])
        arrays[f"{site}.layers"] = np.asarray(sorted(layers), np.int8)
    return arrays


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
        rows=np.asarray(ROWS, np.int32),
        transformers=np.asarray(transformers.__version__),
        **activations(model, ids),
    )
    return path.stat().st_size


def main(arguments: list[str]) -> None:
    """Makes the named cases, or one of each model type."""
    names = chosen_cases(arguments, __doc__, NAMES)
    HIDDEN.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {make_case(CASES[name])} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
