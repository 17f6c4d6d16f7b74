"""GGUF files written here, with the `gguf` package, against the checkpoints they were made of."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import ferrum_jax as fj
from ferrum_jax.models.weights.checkpoint import open_checkpoint
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.tokenizer.gguf import PATTERNS
from tests.parity.golden import load_case, write_checkpoint

TEXTS = [
    "def main():\n    return 12345",
    "Ça va, ¿qué tal? 你好 🙂",
    "  two  spaces\n\n",
    "a<|end|>b",
]
ENGINE = fj.EngineConfig(max_num_seqs=1, max_model_len=64, num_pages=16)
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def stored_name(name):
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    base, kind = name.rsplit(".", 1)
    if base in whole:
        return f"{whole[base]}.{kind}"
    _, _, layer, rest = base.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}.{kind}"


def interleaved(matrix, heads):
    """Row 2 i of a head is its row i, and row 2 i + 1 its row i + half: what llama.cpp wants."""
    rows = matrix.reshape(heads, -1, *matrix.shape[1:])
    half = rows.shape[1] // 2
    out = np.empty_like(rows)
    out[:, 0::2], out[:, 1::2] = rows[:, :half], rows[:, half:]
    return out.reshape(matrix.shape)


def write_gguf(checkpoint, path, *, kind=None, header=(), tokens=None, extra=()):
    """A checkpoint directory as a GGUF file; `kind` quantises its matrices."""
    config = json.loads((checkpoint / "config.json").read_text())
    arch = config["model_type"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    if tokens is None:
        tokens = [f"t{i}" for i in range(config["vocab_size"])]
        writer.add_tokenizer_model("none")
    writer.add_token_list(tokens)
    for call, value in header:
        getattr(writer, call)(value)
    for name, value in extra:
        writer.add_tensor(name, value)
    with open_checkpoint(checkpoint) as source:
        for name in source.names():
            value = np.asarray(source.read(name), np.float32)
            for projection, key in (("q_proj", "attention"), ("k_proj", "key_value")):
                if arch == "llama" and f"{projection}." in name:
                    value = interleaved(value, config[f"num_{key}_heads"])
            if kind is not None and value.ndim == 2 and value.shape[1] % 32 == 0:
                stored = gguf.quants.quantize(value, kind)
                writer.add_tensor(stored_name(name), stored, raw_dtype=kind)
            else:
                writer.add_tensor(stored_name(name), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(directory):
    with open_checkpoint(directory) as source:
        return {name: np.array(source.read(name)) for name in source.names()}


@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3"])
def test_the_same_logits(case, tmp_path):
    checkpoint = write_checkpoint(load_case(case), tmp_path / "hf")
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    found = fj.from_gguf(file, tmp_path / "made", tokenizer=False)
    prompt = [5, 9, 3, 7, 4, 11]
    ours, theirs = (fj.LLM.load(path, engine=ENGINE).logits(prompt) for path in (found, checkpoint))
    np.testing.assert_array_equal(ours, theirs)
    assert np.abs(theirs).max() > 0.01


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16", "F16"])
def test_quantised_tensors_are_what_the_gguf_package_makes_of_them(kind, tmp_path):
    wanted = gguf.GGMLQuantizationType[kind]
    file = write_gguf(DEMO_MODEL, tmp_path / "demo.gguf", kind=wanted)
    fj.from_gguf(file, tmp_path / "made", tokenizer=False)
    made = tensors(tmp_path / "made")
    for name, value in tensors(DEMO_MODEL).items():
        value = value.astype(np.float32)
        if value.ndim == 2 and ".q_proj" not in name and ".k_proj" not in name:
            stored = gguf.quants.quantize(value, wanted)
            np.testing.assert_array_equal(made[name], gguf.quants.dequantize(stored, wanted))
        assert np.abs(made[name] - value).max() <= 0.13 * np.abs(value).max(), name


def test_files_of_a_few_bytes_each_hold_the_same(tmp_path, monkeypatch):
    checkpoint = write_checkpoint(load_case("llama"), tmp_path / "hf")
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    monkeypatch.setattr("ferrum_jax.models.weights.gguf.SHARD_BYTES", 30_000)
    fj.from_gguf(file, tmp_path / "made", "bfloat16", tokenizer=False)
    assert len(list((tmp_path / "made").glob("*.safetensors"))) > 2
    made, expected = tensors(tmp_path / "made"), tensors(checkpoint)
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(made[name], value.astype(made[name].dtype), err_msg=name)


def demo_header():
    model = sentencepiece.SentencePieceProcessor(str(DEMO_MODEL / "tokenizer.model"))
    count = model.get_piece_size()
    types = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i)
        else 5 if model.is_unused(i) else 1
        for i in range(count)
    ]  # fmt: skip
    header = [
        ("add_tokenizer_model", "llama"),
        ("add_token_scores", [model.get_score(i) for i in range(count)]),
        ("add_token_types", types),
        ("add_bos_token_id", 1),
        ("add_eos_token_id", 2),
        ("add_unk_token_id", 0),
        ("add_add_bos_token", True),
        ("add_add_space_prefix", False),
        ("add_chat_template", "{{ messages[0].content }}"),
    ]
    return header, [model.id_to_piece(i) for i in range(count)]


def test_the_demo_model_with_its_sentencepiece_tokenizer(tmp_path):
    header, tokens = demo_header()
    file = write_gguf(DEMO_MODEL, tmp_path / "demo.gguf", header=header, tokens=tokens)
    made = fj.LLM.load(fj.from_gguf(file, tmp_path / "made"), engine=ENGINE)
    demo = fj.LLM.load("demo", engine=ENGINE)
    for text in TEXTS:
        assert made.encode(text) == demo.encode(text)
        ids = made.encode(text)
        assert made.tokenizer.decode(ids) == demo.tokenizer.decode(ids)
    np.testing.assert_array_equal(made.logits(TEXTS[0]), demo.logits(TEXTS[0]))
    assert made.eos_token_ids == demo.eos_token_ids == (2,)
    assert made.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "hi"


@pytest.mark.parametrize("pre", PATTERNS)
def test_a_byte_level_tokenizer(pre, tmp_path):
    """Trained here with the same way of cutting, then read back from the header."""
    pattern, nfc = PATTERNS[pre]
    reference = tokenizers.Tokenizer(models.BPE(ignore_merges=pre.startswith("llama")))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    cuts = [] if pattern is None else [
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")]  # fmt: skip
    reference.pre_tokenizer = pre_tokenizers.Sequence([*cuts, level])
    reference.normalizer = normalizers.NFC() if nfc else None
    reference.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
    )  # fmt: skip
    reference.train_from_iterator([*TEXTS, Path(__file__).read_text()], trainer)
    saved = json.loads(reference.to_str())["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].__getitem__)
    header = [
        ("add_tokenizer_model", "gpt2"),
        ("add_tokenizer_pre", pre),
        ("add_token_types", [3 if token.startswith("<|") else 1 for token in tokens]),
        ("add_token_merges", [" ".join(pair) for pair in saved["merges"]]),
        ("add_bos_token_id", 0),
        ("add_eos_token_id", 1),
        ("add_add_bos_token", True),
    ]
    checkpoint = write_checkpoint(load_case("qwen3"), tmp_path / "hf")
    file = write_gguf(checkpoint, tmp_path / "m.gguf", header=header, tokens=tokens)
    with pytest.raises(fj.WeightError, match="misshapen"):  # its vocabulary is another model's
        fj.LLM.load(fj.from_gguf(file, tmp_path / "made"), engine=ENGINE)
    found = load_tokenizer(tmp_path / "made")
    for text in TEXTS:
        ids = found.encode(text)
        assert ids == [0, *reference.encode(text).ids]
        assert found.decode(ids) == reference.decode(ids[1:])
    assert found.eos_token_ids == (1,)


def test_the_rope_of_llama_3(tmp_path):
    checkpoint = write_checkpoint(load_case("llama"), tmp_path / "hf")
    raw = json.loads((checkpoint / "config.json").read_text())
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    raw.pop("rope_parameters", None)
    raw |= {"rope_theta": 500000.0, "rope_scaling": scaling, "max_position_embeddings": 131072}
    (checkpoint / "config.json").write_text(json.dumps(raw))
    size = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    waves = 2 * np.pi * 500000.0 ** (np.arange(0, size, 2) / size)
    factors = [
        1.0 if wave < 8192 / 4 else 8.0 if wave > 8192
        else 1 / ((1 - (8192 / wave - 1) / 3) / 8 + (8192 / wave - 1) / 3)
        for wave in waves
    ]  # fmt: skip
    assert 8.0 in factors
    assert 1.0 in factors
    given = [("rope_freqs.weight", np.array(factors, np.float32))]
    file = write_gguf(checkpoint, tmp_path / "model.gguf", extra=given)
    made = fj.from_gguf(file, tmp_path / "made", tokenizer=False)
    prompt = list(range(3, 60))
    logits = [fj.LLM.load(path, engine=ENGINE).logits(prompt) for path in (made, checkpoint)]
    np.testing.assert_array_equal(*logits)
    given[0][1][-2] *= 1.1
    other = write_gguf(checkpoint, tmp_path / "other.gguf", extra=given)
    with pytest.raises(fj.UnsupportedError, match="not of Llama 3's rope as published"):
        fj.from_gguf(other, tmp_path / "more", tokenizer=False)


def test_what_is_refused(tmp_path, monkeypatch):
    checkpoint = write_checkpoint(load_case("llama"), tmp_path / "hf")
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    with pytest.raises(fj.UnsupportedError, match=r"of the kind 'none'.*tokenizer=False"):
        fj.from_gguf(file, tmp_path / "made")
    with pytest.raises(fj.WeightError, match="holds a model already"):
        fj.from_gguf(file, checkpoint)
    with pytest.raises(fj.ModelError, match=r"is a GGUF file; fj.from_gguf"):
        fj.LLM.load(file)
    with pytest.raises(fj.WeightError, match="is no file"):
        fj.from_gguf(tmp_path / "missing.gguf", tmp_path / "made")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(7))
    with pytest.raises(fj.WeightError, match="no GGUF file that can be read"):
        fj.from_gguf(tmp_path / "bad.gguf", tmp_path / "made")
    header = [("add_expert_count", 8)]
    with pytest.raises(fj.UnsupportedError, match="'llama with experts'"):
        fj.from_gguf(write_gguf(checkpoint, tmp_path / "e.gguf", header=header), tmp_path / "made")
    extra = [("blk.0.surprise.weight", np.ones(3, np.float32))]
    other = write_gguf(checkpoint, tmp_path / "x.gguf", extra=extra)
    with pytest.raises(fj.WeightError, match=r"not known: 'blk\.0\.surprise\.weight'"):
        fj.from_gguf(other, tmp_path / "made", tokenizer=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("ferrum_jax.models.weights.gguf.find_spec", lambda name: None)
    with pytest.raises(fj.UnsupportedError, match="pip install"):
        fj.from_gguf(file, tmp_path / "made")
