"""What transformers computes with the demo model: `demo.npz`, for `test_demo.py`.

    python tests/parity/make_demo_reference.py

Run where torch and transformers are installed, after the demo model was trained anew. It also
proves that transformers loads the packaged directory as it stands, tokenizer included.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "ferrum_jax" / "demo_model"
TEXTS = (
    "The for statement is used to iterate over the elements of a sequence:\n\n    for x in y:\n",
    "def main(argv=None):\n    parser = argparse.ArgumentParser()\n    return 0\n",
    "Größe, 漢字, \U0001f600 and\ttabs",
)
PROMPT = "The while statement"
NEW_TOKENS = 24


def main() -> None:
    """Write token ids, fp32 logits and a greedy continuation of the uncached full forward."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model, loading = AutoModelForCausalLM.from_pretrained(
        DEMO, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {key: value for key, value in loading.items() if value}
    assert not problems, problems
    arrays: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for i, text in enumerate(TEXTS):
            ids = tokenizer(text)["input_ids"]
            arrays[f"ids{i}"] = np.asarray(ids, np.int32)
            arrays[f"logits{i}"] = model(torch.tensor([ids])).logits[0, -8:].numpy()
        ids = tokenizer(PROMPT)["input_ids"]
        for _ in range(NEW_TOKENS):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    arrays["greedy"] = np.asarray(ids, np.int32)
    weights = (DEMO / "model.safetensors").read_bytes()
    arrays["weights_sha256"] = np.asarray(hashlib.sha256(weights).hexdigest())
    np.savez_compressed(HERE / "demo.npz", **arrays)
    print({key: value.shape for key, value in arrays.items()})


if __name__ == "__main__":
    main()
