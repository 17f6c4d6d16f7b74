"""Checkpoints whose tensors are named or added to as in published ones load as the plain one does.

A model is its config and its parameters, so equal ones are compared by those, bit for bit.
"""

import json
import logging
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import ferrum_jax as fj
from ferrum_jax.models.families import FAMILIES
from ferrum_jax.models.weights.load import load_model
from ferrum_jax.runtime.directory import eos_token_ids
from tests.parity.golden import case_names, load_case, make_weights

pytestmark = pytest.mark.one_jax
ONE_OF_EACH = [case_names(model_type)[0] for model_type in sorted(FAMILIES)]
NESTED = [name for name in ONE_OF_EACH if "model.embed_tokens.weight" in load_case(name).tensors]
BUFFER = np.ones((1, 1, 4, 4), np.float32)


def write(directory, config, tensors):
    """A directory with one file of weights."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def loads(tmp_path):
    """`(case, tensors, config) -> (config, params)`, checked against the case as it is stored."""

    def check(name, tensors, config=None):
        golden = load_case(name)
        plain = load_model(write(tmp_path / "plain", golden.config, make_weights(golden)))
        other = load_model(write(tmp_path / "other", config or golden.config, tensors))
        assert other[0] == plain[0]
        assert_equal(other[1], plain[1])
        return other

    return check


def assert_equal(params, expected):
    """The same parameters, bit for bit."""
    held, wanted = (jax.tree_util.tree_leaves_with_path(p) for p in (params, expected))
    assert [path for path, _ in held] == [path for path, _ in wanted]
    for (path, x), (_, y) in zip(held, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


def renamed(tensors, *rules):
    """The tensors by other names: the first rule `(pattern, replacement)` that matches counts."""
    result = {}
    for name, tensor in tensors.items():
        new = next((re.sub(p, r, name) for p, r in rules if re.search(p, name)), name)
        result[new] = tensor
    assert len(result) == len(tensors)
    return result


def weights(name):
    return make_weights(load_case(name))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_names_without_those_of_the_base_model(name, loads):
    """As a dump of the base model, or GPT-2's, BLOOM's and OPT's first files have them."""
    bare = renamed(weights(name), (r"^(model|transformer|backbone|gpt_neox)\.", ""))
    assert bare.keys() != load_case(name).tensors.keys()
    loads(name, bare)


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize(
    "rules",
    [
        [("^model", "language_model.model"), ("^lm_head", "language_model.lm_head")],
        [("^model", "model.language_model")],
        [("^model", "language_model")],
        [("^model", "model.text_model")],
    ],
    ids=lambda rules: rules[0][1],
)
def test_names_of_the_text_model_in_a_larger_one(name, rules, loads, caplog):
    vision = {"vision_tower.layers.0.fc1.weight": BUFFER, "model.visual.merger.weight": BUFFER}
    with caplog.at_level(logging.WARNING):
        loads(name, renamed(weights(name), *rules) | vision)
    [record] = caplog.records
    assert "2 tensors of other parts are left aside (vision_tower, visual)" in record.getMessage()


@pytest.mark.parametrize("name", ["mamba_hub", "mamba2"])
def test_the_first_name_of_mambas_embedding(name, loads):
    loads(name, renamed(weights(name), (r"embeddings\.weight", "embedding.weight")))


def test_the_base_model_of_nemotron_h_by_its_newer_name(loads):
    loads("nemotron_h", renamed(weights("nemotron_h"), ("^backbone", "model")))


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("gpt2_hub", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        (
            "gpt_neox_hub",
            [
                "gpt_neox.layers.0.attention.bias",
                "gpt_neox.layers.0.attention.masked_bias",
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
            ],
        ),
        ("llama_hub", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("falcon_hub", ["transformer.h.0.self_attention.rotary_emb.inv_freq"]),
        ("gemma3_text_hub", ["model.rotary_emb.inv_freq"]),
        ("qwen3_next_hub", ["mtp.fc.weight", "mtp.layers.0.mlp.gate.weight"]),
        ("qwen3_5_text", ["mtp.layers.0.self_attn.q_proj.weight"]),
        ("nemotron_h_hub", ["mtp.layers.0.mixer.in_proj.weight"]),
        ("ernie4_5_moe", ["model.mtp_block.0.mlp.up_proj.weight", "model.mtp_emb_norm.0.weight"]),
    ],
)
def test_buffers_and_further_heads_are_not_read(name, added, loads, caplog):
    loads(name, weights(name) | dict.fromkeys(added, BUFFER))
    assert not caplog.records


def test_gpt2_as_its_first_file_is(loads):
    tensors = renamed(weights("gpt2_hub"), (r"^transformer\.", ""))
    assert {"wte.weight", "wpe.weight", "ln_f.bias", "h.0.attn.c_attn.weight"} <= tensors.keys()
    loads("gpt2_hub", tensors | {"h.0.attn.bias": BUFFER, "h.2.attn.masked_bias": BUFFER})


@pytest.mark.parametrize("name", ["deepseek_v3_hub", "glm4_moe_hub", "minimax_m2_hub"])
def test_layers_that_predict_further_tokens(name, loads, tmp_path):
    config = load_case(name).config
    key = "num_mtp_modules" if name == "minimax_m2_hub" else "num_nextn_predict_layers"
    behind = f"model.layers.{config['num_hidden_layers']}"
    further = {f"{behind}.enorm.weight": BUFFER, f"{behind}.mlp.gate.weight": BUFFER}
    tensors = weights(name) | further
    loads(name, tensors, config | {key: 1})
    with pytest.raises(fj.WeightError, match=r"unread \(2\)"):
        load_model(write(tmp_path / "unnamed", config | {key: 0}, tensors))


def test_gemma4s_keys_of_layers_that_share(loads, tmp_path):
    tensors = weights("gemma4_text_shared")
    has = {name.split(".")[2] for name in tensors if "self_attn.k_proj" in name}
    layer = next(str(i) for i in range(6) if str(i) not in has)
    own = [f"model.layers.{layer}.self_attn.{x}.weight" for x in ("k_proj", "v_proj", "k_norm")]
    loads("gemma4_text_shared", tensors | dict.fromkeys(own, BUFFER))
    golden = load_case("gemma4_text_shared")
    with pytest.raises(fj.WeightError, match="unread"):
        load_model(write(tmp_path / "x", golden.config, tensors | {own[0] + "x": BUFFER}))


TIED = {"llama_tied": "model.embed_tokens.weight", "gpt2_hub": "transformer.wte.weight"}


@pytest.mark.parametrize(("name", "embed"), TIED.items())
def test_a_tied_model_that_stores_its_head_too(name, embed, loads, tmp_path):
    tensors = weights(name)
    loads(name, tensors | {"lm_head.weight": tensors[embed].copy()})
    other = tensors | {"lm_head.weight": tensors[embed] + 1}
    with pytest.raises(fj.WeightError, match=r'"tie_word_embeddings": false'):
        load_model(write(tmp_path / "differs", load_case(name).config, other))


def test_a_tied_model_that_stores_its_head_alone(loads):
    loads("llama_tied", renamed(weights("llama_tied"), (r"^model\.embed_tokens", "lm_head")))


def test_an_untied_model_without_a_head(tmp_path):
    golden = load_case("llama")
    tensors = weights("llama")
    del tensors["lm_head.weight"]
    with pytest.raises(fj.WeightError, match=r'lm_head\.weight.*"tie_word_embeddings": true'):
        load_model(write(tmp_path, golden.config, tensors))
    # The same of a dump of its base model.
    bare = renamed(tensors, (r"^model\.", ""))
    with pytest.raises(fj.WeightError, match=r"missing \(1\): 'lm_head\.weight'"):
        load_model(write(tmp_path, golden.config, bare))


def test_a_stray_tensor_of_a_text_model_is_still_a_fault(tmp_path):
    golden = load_case("llama")
    stray = weights("llama") | {"vision_tower.x": BUFFER}
    with pytest.raises(fj.WeightError, match=r"unread \(1\): 'vision_tower\.x'"):
        load_model(write(tmp_path / "a", golden.config, stray))
    wrapped = {"model_type": "mistral3", "text_config": golden.config, "vision_config": {}}
    inside = renamed(weights("llama"), ("^model", "language_model.model"))
    inside |= {"vision_tower.x": BUFFER, "language_model.model.layers.0.x": BUFFER}
    with pytest.raises(fj.WeightError, match=r"unread \(1\): 'language_model\.model\.layers\.0\.x"):
        load_model(write(tmp_path / "b", wrapped, inside))


WRAPPERS = {
    "aya_vision": ("cohere2_hub", "cohere2"),
    "gemma3": ("gemma3_text_hub", "gemma3_text"),
    "gemma4": ("gemma4_text_hub", "gemma4_text"),
    "internvl": ("qwen2_hub", "qwen2"),
    "kimi_vl": ("deepseek_v3_hub", "deepseek_v3"),
    "lfm2_vl": ("lfm2_hub", "lfm2"),
    "llama4": ("llama4_text_hub", "llama4_text"),
    "llava": ("llama_hub", "llama"),
    "mistral3": ("ministral3", "ministral3"),
    "qwen2_5_vl": ("qwen2_hub", "qwen2_5_vl_text"),
    "qwen3_5": ("qwen3_5_text", "qwen3_5_text"),
    "qwen3_vl": ("qwen3_hub", "qwen3_vl_text"),
}


@pytest.mark.parametrize("outer", WRAPPERS)
def test_the_text_model_of_a_multimodal_checkpoint(outer, loads, caplog):
    name, inner = WRAPPERS[outer]
    config = {
        "model_type": outer,
        "architectures": ["SomeForConditionalGeneration"],
        "text_config": load_case(name).config | {"model_type": inner},
        "vision_config": {"hidden_size": 8, "model_type": "a_vision_model"},
        "image_token_index": 5,
    }
    tensors = renamed(
        weights(name), ("^model", "language_model.model"), ("^lm_head", "language_model.lm_head")
    )
    loads(name, tensors | {"multi_modal_projector.linear.weight": BUFFER}, config)
    assert "1 tensors of other parts are left aside (multi_modal_projector)" in caplog.text


def test_a_flat_config_of_a_multimodal_checkpoint(loads, caplog):
    """Qwen 2.5 VL's first files."""
    config = load_case("qwen2_hub").config | {
        "model_type": "qwen2_5_vl",
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {"depth": 2},
        "vision_start_token_id": 3,
    }
    config.pop("rope_parameters", None)
    loads("qwen2_hub", weights("qwen2_hub") | {"visual.blocks.0.norm1.weight": BUFFER}, config)
    assert "(visual)" in caplog.text


def test_whether_a_wrapped_model_is_tied(loads):
    name = "llama_tied"
    text = {k: v for k, v in load_case(name).config.items() if k != "tie_word_embeddings"}
    config = {"model_type": "llava", "tie_word_embeddings": True, "text_config": text}
    loads(name, renamed(weights(name), ("^model", "model.language_model")), config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}, "paligemma"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3n_text"}}, "gemma3n_text"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
    ],
)
def test_other_models_are_refused_by_name(config, says, tmp_path):
    directory = write(tmp_path, load_case("llama").config | config, weights("llama"))
    with pytest.raises(fj.UnsupportedError, match=says):
        load_model(directory)


def test_the_logits_of_a_renamed_checkpoint(tmp_path):
    golden = load_case("bloom_hub")
    plain = fj.LLM.load(write(tmp_path / "plain", golden.config, weights("bloom_hub")))
    bare = renamed(weights("bloom_hub"), (r"^transformer\.", ""))
    other = fj.LLM.load(write(tmp_path / "bare", golden.config, bare))
    ids = golden.sequences[0].tolist()
    np.testing.assert_array_equal(other.logits(ids), plain.logits(ids))


def test_what_ends_a_text_of_a_multimodal_checkpoint(tmp_path):
    config = {"model_type": "qwen3_5", "text_config": {"eos_token_id": [5, 7]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert eos_token_ids(tmp_path, None) == (5, 7)
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 0}))
    assert eos_token_ids(tmp_path, None) == (0,)
