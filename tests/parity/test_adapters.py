"""LoRA adapters against PEFT: apart from the weights, merged, and several in one batch."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ferrum_jax as fj
from tests.parity.golden import load_case, tolerance, write_checkpoint
from tests.parity.random_weights import make_tensor

ADAPTERS = Path(__file__).parent / "adapters"
NAMES = sorted(path.stem for path in ADAPTERS.glob("*.json"))
MERGED = 1e-5
"""How far logits with the adapter apart may be from those with it merged."""
ENGINE = fj.EngineConfig(page_size=4, num_pages=64, max_num_seqs=4, max_num_batched_tokens=16)


def write_adapter(name, directory, *, seed=1, **changes):
    """The adapter of a case as PEFT saved it, its matrices from a seed."""
    record = json.loads((ADAPTERS / f"{name}.json").read_text())
    directory.mkdir(exist_ok=True)
    config = record["config"] | changes
    (directory / "adapter_config.json").write_text(json.dumps(config))
    tensors = {key: make_tensor(key, tuple(s), seed) for key, s in record["tensors"].items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    held = {}

    def load(name):
        if name not in held:
            directory = tmp_path_factory.mktemp(name)
            golden = load_case(name)
            llm = fj.LLM.load(write_checkpoint(golden, directory / "model"), engine=ENGINE)
            adapter = llm.load_adapter(write_adapter(name, directory / "adapter"))
            held[name] = golden, llm, adapter
        return held[name]

    return load


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_pefts(name, loaded):
    golden, llm, adapter = loaded(name)
    ids = golden.sequences[0].tolist()
    expected = np.load(ADAPTERS / f"{name}.npz")["logits"]
    error = np.abs(llm.logits(ids, taps=adapter) - expected).max()
    assert error < tolerance(golden), f"{error:.1e}"
    assert np.abs(expected - golden.logits[0]).max() > 100 * error


@pytest.mark.parametrize("name", NAMES)
def test_merged_and_apart_give_the_same_logits(name, loaded):
    golden, llm, adapter = loaded(name)
    ids = golden.sequences[0].tolist()
    merged, apart = llm.merged(adapter).logits(ids), llm.logits(ids, taps=adapter)
    assert np.abs(merged - apart).max() < MERGED


@pytest.mark.parametrize(
    "name", ["llama", "qwen3_moe", pytest.param("deepseek_v2", marks=pytest.mark.every_case)]
)
def test_each_request_of_a_batch_has_its_own_adapter(name, loaded, tmp_path):
    """None, one, another and both at once, in one batch: each as it is alone."""
    golden, llm, first = loaded(name)
    second = llm.load_adapter(write_adapter(name, tmp_path / "other", seed=2))
    texts = [golden.sequences[0].tolist()[:20], golden.sequences[1].tolist()[:13]] * 2
    taps = [None, first, second, first + second]
    with llm:
        scores = llm.score(texts, taps=taps)
        plans = {shape.plan for shape in llm.compilations}
    assert len({plan.adapters for plan in plans if plan}) == 1
    for text, tap, score in zip(texts, taps, scores, strict=True):
        logits = llm.logits(text, taps=tap)
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        expected = logprobs[np.arange(len(text) - 1), text[1:]]
        np.testing.assert_allclose(score.logprobs[1:], expected, atol=2 * tolerance(golden))
    both = fj.merge_adapters(llm.merged(first).params, second.adapters)
    merged = fj.LLM(llm.config, both).logits(texts[0])
    assert np.abs(llm.logits(texts[0], taps=first + second) - merged).max() < 2 * MERGED


def test_a_request_without_an_adapter_is_not_moved_by_its_neighbours(loaded):
    golden, llm, adapter = loaded("llama")
    text = golden.sequences[0].tolist()[:20]
    engine = fj.EngineConfig(
        page_size=4, num_pages=64, max_num_seqs=4, max_num_batched_tokens=16, batch_invariant=True
    )
    with fj.LLM(llm.config, llm.params, engine=engine) as invariant:
        alone = invariant.score(text)[0].logprobs
        beside = invariant.score([text, text, text], taps=[adapter, None, adapter])
    np.testing.assert_array_equal(beside[1].logprobs, alone)
    np.testing.assert_array_equal(beside[0].logprobs, beside[2].logprobs)
    assert np.abs(beside[0].logprobs - alone)[1:].max() > 0.01


def test_pages_are_shared_between_requests_of_one_adapter_only(loaded):
    golden, llm, adapter = loaded("llama")
    text = golden.sequences[0].tolist()[:20]
    greedy = fj.SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    engine = fj.EngineConfig(page_size=4, num_pages=64, max_num_seqs=2, prefix_caching=True)
    with fj.LLM(llm.config, llm.params, engine=engine) as cached:
        plain = cached.generate([text], greedy)[0]
        adapted = cached.generate([text], greedy, taps=adapter)[0]
        again = cached.generate([text], greedy, taps=adapter)[0]
    assert (plain.metrics.cached_tokens, adapted.metrics.cached_tokens) == (0, 0)
    assert again.metrics.cached_tokens > 0
    assert again.outputs[0].token_ids == adapted.outputs[0].token_ids
    with fj.LLM(llm.config, llm.merged(adapter).params, engine=engine) as merged:
        assert merged.generate([text], greedy)[0].outputs[0].token_ids == (
            adapted.outputs[0].token_ids
        )


def test_edits_and_captures_go_with_an_adapter(loaded):
    golden, llm, adapter = loaded("llama")
    text = golden.sequences[0].tolist()[:20]
    edit = fj.edits.ablate_heads([(1, 0)])
    merged = llm.merged(adapter)
    expected = merged.logits(text, taps=edit)
    assert np.abs(llm.logits(text, taps=adapter + edit) - expected).max() < MERGED
    with llm, merged:
        ours = llm.capture([text], "resid_post", taps=adapter + edit)[0]["resid_post"]
        theirs = merged.capture([text], "resid_post", taps=edit)[0]["resid_post"]
    for layer, values in theirs.items():
        np.testing.assert_allclose(ours[layer], values, atol=1e-5)
    with pytest.raises(fj.UnsupportedError, match=r"llm\.merged"):
        fj.reading.logit_lens(llm, text, taps=adapter)


def test_an_adapter_in_bfloat16(loaded):
    golden, llm, adapter = loaded("llama")
    ids = golden.sequences[0].tolist()
    import jax

    half = fj.LLM(llm.config, jax.tree.map(lambda x: x.astype("bfloat16"), llm.params))
    cast = fj.Taps(
        adapters=fj.Adapters(
            jax.tree.map(
                lambda x: x.astype("bfloat16") if x.shape[0] > 1 else x, adapter.adapters.changes
            ),
            adapter.adapters.weights,
            "cast",
        )
    )
    exact = llm.logits(ids, taps=adapter)
    moved = np.abs(exact - llm.logits(ids)).mean()
    assert np.abs(half.logits(ids, taps=cast) - exact).mean() < 0.1 * moved


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "IA3"}, fj.UnsupportedError, "IA3"),
        ({"use_dora": True}, fj.UnsupportedError, "use_dora"),
        ({"bias": "all"}, fj.UnsupportedError, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, fj.UnsupportedError, "modules_to_save"),
        ({"lora_alpha": "many"}, fj.ConfigError, "lora_alpha is 'many'"),
        ({"alpha_pattern": {"(a+)+b": 1}}, fj.ConfigError, "alpha_pattern"),
        ({"alpha_pattern": {"(": 1}}, fj.ConfigError, "alpha_pattern"),
    ],
)
def test_what_is_no_plain_lora_is_refused(changes, error, message, loaded, tmp_path):
    _, llm, _ = loaded("llama")
    with pytest.raises(error, match=message.replace("(", r"\(")):
        llm.load_adapter(write_adapter("llama", tmp_path / "adapter", **changes))


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"model.embed_tokens": (8, 4)}, fj.UnsupportedError, "embed_tokens, which is in no layer"),
        ({"model.layers.9.self_attn.q_proj": (8, 4)}, fj.WeightError, "layers 0 to"),
        ({"model.layers.0.self_attn.rotary": (8, 4)}, fj.UnsupportedError, "no projection"),
        ({"model.layers.0.input_layernorm": (8, 4)}, fj.UnsupportedError, "no projection"),
        ({"model.layers.0.mlp.down_proj": (8, 4)}, fj.WeightError, "is of a matrix 8 x 4"),
        ({}, fj.WeightError, "no lora_A and lora_B"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tensors, error, message, loaded, tmp_path):
    _, llm, _ = loaded("llama")
    directory = write_adapter("llama", tmp_path / "adapter")
    stored = {}
    for name, (out, inputs) in tensors.items():
        prefix = f"base_model.model.{name}"
        stored[f"{prefix}.lora_A.weight"] = np.ones((2, inputs), np.float32)
        stored[f"{prefix}.lora_B.weight"] = np.ones((out, 2), np.float32)
    save_file(stored, directory / "adapter_model.safetensors")
    with pytest.raises(error, match=message):
        llm.load_adapter(directory)


def test_an_adapter_of_another_model_is_refused(loaded):
    golden, llm, _ = loaded("llama")
    _, _, other = loaded("deepseek_v2")
    with pytest.raises(fj.RequestError, match=r"does not have|this model's is"):
        llm.generate([golden.prompt.tolist()], taps=other)
    with pytest.raises(fj.RequestError, match="an adapter alone"):
        llm.merged(fj.edits.ablate_layer(0))
