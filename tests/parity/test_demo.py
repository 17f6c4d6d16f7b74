"""The model inside the package: transformers' numbers, and text that a person would recognise."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.runtime.llm import DEMO_MODEL

REFERENCE = np.load(Path(__file__).parent / "demo.npz")
TEXTS = (
    "The for statement is used to iterate over the elements of a sequence:\n\n    for x in y:\n",
    "def main(argv=None):\n    parser = argparse.ArgumentParser()\n    return 0\n",
    "Größe, 漢字, \U0001f600 and\ttabs",
)


@pytest.fixture(scope="module")
def demo():
    engine = fj.EngineConfig(max_num_seqs=4, max_num_batched_tokens=64, num_pages=130)
    with fj.LLM.load("demo", engine=engine) as llm:
        yield llm


def test_the_reference_is_of_these_weights():
    weights = (DEMO_MODEL / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == str(REFERENCE["weights_sha256"])
    assert sum(file.stat().st_size for file in DEMO_MODEL.iterdir()) < 12_000_000


@pytest.mark.parametrize("index", range(len(TEXTS)))
def test_token_ids_and_logits_equal_transformers(demo, index):
    assert demo.encode(TEXTS[index]) == REFERENCE[f"ids{index}"].tolist()
    error = np.abs(demo.logits(TEXTS[index])[-8:] - REFERENCE[f"logits{index}"]).max()
    assert error < 5e-5


def test_greedy_text_equals_transformers(demo):
    expected = REFERENCE["greedy"].tolist()
    prompt = demo.encode("The while statement")
    params = fj.SamplingParams(
        temperature=0, max_tokens=len(expected) - len(prompt), ignore_eos=True
    )
    output = demo.generate("The while statement", params)[0].outputs[0]
    assert prompt + output.token_ids == expected


def test_it_knows_python_better_than_chance(demo):
    """Bits per byte on a text that it has not seen, against the same text with its words mixed."""
    text = (
        "    def close(self):\n        if self.file is not None:\n            self.file.close()\n"
    )
    words = text.split()
    mixed = " ".join(np.random.default_rng(0).permutation(words))
    straight, shuffled = demo.score([text, mixed])
    ordered, disordered = (
        -score.total / np.log(2) / len(source)
        for score, source in ((straight, text), (shuffled, mixed))
    )
    assert ordered < 1.2
    assert disordered > ordered + 0.8


def test_it_writes_code_and_prose(demo):
    params = fj.SamplingParams(temperature=0.7, top_p=0.95, max_tokens=60, seed=0)
    code, prose = demo.generate(
        ["class Stack:\n    def __init__(self", "The for statement"], params
    )
    assert "self" in code.outputs[0].text
    words = {"the", "is", "a", "of", "to", "and"}
    assert len(words & set(prose.outputs[0].text.lower().split())) >= 3
