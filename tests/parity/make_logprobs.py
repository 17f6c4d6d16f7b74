"""Writes what transformers predicts for some documents, for `fj.compare` to read.

    python tests/parity/make_logprobs.py CHECKPOINT OUT.safetensors TEXT [TEXT ...]
    python tests/parity/make_logprobs.py --demo

Run where torch and transformers are installed; jax is not needed. A TEXT is a file, one document
each, cut to `--max-tokens` tokens. The numbers come from one full forward per document without a
cache, in `--dtype`, with eager attention. `--demo` writes the file of
`tests/research/compare/test_demo.py`: the demo model on the documents below.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "ferrum_jax" / "demo_model"
DEMO_OUT = ROOT / "tests" / "research" / "compare" / "demo_transformers.safetensors"
DEMO_TEXTS = (
    "The for statement is used to iterate over the elements of a sequence:\n\n    for x in y:\n",
    "def main(argv=None):\n    parser = argparse.ArgumentParser()\n    return 0\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n",
    "Größe, 漢字, \U0001f600 and\ttabs",
)
DEMO_TOP_K = 256
FORMAT_FILE = ROOT / "ferrum_jax" / "research" / "compare" / "logprobs_file.py"


def main(arguments: Sequence[str]) -> None:
    """Write the file that the arguments name, and say what is in it."""
    options = parse(arguments)
    checkpoint, out, texts, top_k = options.checkpoint, options.out, None, options.top_k
    if options.demo:
        checkpoint, out, texts, top_k = DEMO, DEMO_OUT, DEMO_TEXTS, DEMO_TOP_K
    if texts is None:
        texts = [path.read_text(encoding="utf-8") for path in options.texts]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    documents = [tokenizer(text)["input_ids"][: options.max_tokens] for text in texts]
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=getattr(torch, options.dtype), attn_implementation="eager"
    ).eval()
    load_format().write_logprobs(
        out,
        documents,
        logits_of(model, documents),
        vocab_size=model.config.vocab_size,
        name=f"transformers {transformers.__version__}, {options.dtype}",
        dtype=options.store,
        top_k=top_k,
    )
    tokens = sum(map(len, documents))
    print(f"{out}: {len(documents)} documents, {tokens} tokens, {out.stat().st_size:,} bytes")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; errors end the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a directory with config.json")
    parser.add_argument("out", type=Path, nargs="?", help="the file to write")
    parser.add_argument("texts", type=Path, nargs="*", help="text files, one document each")
    parser.add_argument("--demo", action="store_true", help="write the file of the test")
    parser.add_argument("--dtype", default="float32", help="torch dtype of the model")
    parser.add_argument("--store", default="float32", choices=("float32", "float16"))
    parser.add_argument("--top-k", type=int, help="keep so many ids a token; all if not given")
    parser.add_argument("--max-tokens", type=int, default=512, help="of a document")
    options = parser.parse_args(arguments)
    if not options.demo and not options.texts:
        parser.error("name a checkpoint, a file to write and at least one text file; or --demo")
    return options


def load_format() -> ModuleType:
    """The file that defines the format, by its path: the package around it would import jax."""
    spec = importlib.util.spec_from_file_location(FORMAT_FILE.stem, FORMAT_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def logits_of(model: torch.nn.Module, documents: Sequence[Sequence[int]]) -> Iterator:
    """Logits [T, V] of each document, one full forward each."""
    for ids in documents:
        yield model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


if __name__ == "__main__":
    main(sys.argv[1:])
