"""What PEFT computes with LoRA adapters: `adapters/<case>.json` and `.npz`, for `test_adapters.py`.

    python tests/parity/make_adapter_reference.py [case ...]

Runs where `make_reference.py` runs, with peft beside transformers, and builds the same models from
its seeds. The adapters' matrices come from seeds too, by the names that PEFT saves them under, so
the files hold the adapter's config, its tensors' shapes, and the logits of the first sequence: with
the adapter apart from the weights, and merged into them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from cases import CASES
from make_reference import GOLDEN, forward, load_seeded, save_untrained
from random_weights import make_tensor
from safetensors.torch import load_file

ADAPTERS = Path(__file__).parent / "adapters"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LLAMA = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {
        "target_modules": LLAMA,
        "r": 3,
        "rank_pattern": {"q_proj": 5},
        "alpha_pattern": {"layers.1.mlp.up_proj": 2},
    },
    "qwen2": {"target_modules": ["q_proj", "v_proj"], "r": 4, "use_rslora": True},
    "phi3": {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "falcon": {"target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]},
    "bloom": {"target_modules": ["query_key_value", "dense"]},
    "qwen3_moe": {"target_modules": ATTENTION, "target_parameters": EXPERTS},
    "mixtral": {"target_modules": [], "target_parameters": EXPERTS},
    "gpt_oss": {"target_modules": ["q_proj"], "target_parameters": EXPERTS},
    "llama4_text": {
        "target_modules": ["shared_expert.up_proj", "k_proj"],
        "target_parameters": ["experts.down_proj"],
    },
    "deepseek_v2": {
        "target_modules": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
    },
    "qwen3_next": {"target_modules": ["q_proj", "o_proj"]},
}
"""By the golden case whose model is adapted."""


def make(name: str) -> None:
    """Write the files of one case."""
    case, settings = CASES[name], {"r": 2, "lora_alpha": 1, **SETTINGS[name]}
    seed = json.loads((GOLDEN / f"{name}.json").read_text())["seed"]
    tokens, plain = (np.load(GOLDEN / f"{name}.npz")[key] for key in ("sequence0", "logits0"))
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = load_seeded(case, save_untrained(case, directory), directory, seed)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
        adapted.save_pretrained(directory)
        saved = load_file(directory / "adapter_model.safetensors")
        config = json.loads((directory / "adapter_config.json").read_text())
    shapes = {key: list(x.shape) for key, x in sorted(saved.items())}
    tensors = {key: torch.from_numpy(make_tensor(key, tuple(s), 1)) for key, s in shapes.items()}
    peft.set_peft_model_state_dict(adapted, tensors)
    apart = forward(adapted, tokens).numpy()
    merged = forward(adapted.merge_and_unload(), tokens).numpy()
    moved, between = np.abs(apart - plain).max(), np.abs(apart - merged).max()
    print(f"{name}: {len(shapes)} matrices, moved {moved:.2g}, apart - merged {between:.1e}")
    assert moved > 0.01, f"{name}: the adapter hardly does anything"
    ADAPTERS.mkdir(exist_ok=True)
    kept = {key: value for key, value in sorted(config.items()) if value is not None}
    kept["target_modules"] = sorted(settings["target_modules"])
    record = {"peft": peft.__version__, "transformers": transformers.__version__}
    (ADAPTERS / f"{name}.json").write_text(
        json.dumps({**record, "config": kept, "tensors": shapes}, indent=1) + "\n"
    )
    np.savez_compressed(ADAPTERS / f"{name}.npz", logits=apart.astype(np.float32))


if __name__ == "__main__":
    for case in sys.argv[1:] or SETTINGS:
        make(case)
