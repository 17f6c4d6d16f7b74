"""Config files of published checkpoints, as they are on the hub, are read at their full size.

Each of `published/` has the file and what is known of its model: sizes, and the number of
parameters that its authors give, of the text model alone and with a tied head counted once. Token
ids, the factors of long ropes, Falcon H1's multipliers and most of the vision parts are
placeholders.
"""

import json
import math
from pathlib import Path

import pytest

import ferrum_jax as fj
from ferrum_jax.models.families import FAMILIES, read_config
from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.types import AttentionConfig, MLAConfig

PUBLISHED = {path.stem: path for path in (Path(__file__).parent / "published").glob("*.json")}
assert PUBLISHED


def published(name):
    record = json.loads(PUBLISHED[name].read_text())
    return record["config"], record["facts"]


def first_attention(config):
    """That of the first layer that attends; a full one has other sizes in some types."""
    return next((x.attention for x in config.layers if x.attention is not None), None)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_config(name):
    raw, facts = published(name)
    config = read_config(raw, name)
    assert config.num_layers == facts["layers"]
    attention = first_attention(config)
    assert (attention is None) == ("heads" not in facts)
    if isinstance(attention, MLAConfig):
        found = (attention.num_heads, None, attention.head_dim)
    elif isinstance(attention, AttentionConfig):
        found = (attention.num_heads, attention.num_kv_heads, attention.head_dim)
    else:
        found = (None, None, None)
    assert found == tuple(facts.get(key) for key in ("heads", "kv_heads", "head_dim"))
    rope = None if attention is None else attention.rope
    assert (rope is None) == ("theta" not in facts)
    if rope is not None:
        assert math.isclose(rope.theta, facts["theta"])
    if "rope" in facts:
        assert rope.scaling.kind == facts["rope"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_number_of_parameters(name):
    raw, facts = published(name)
    count = sum(math.prod(shape) for shape in flatten_shapes(read_config(raw, name)).values())
    assert count == pytest.approx(facts["parameters"], rel=0.02)


def test_every_model_type_has_a_published_config():
    types = {read_config(published(name)[0], name).model_type for name in PUBLISHED}
    assert types == set(FAMILIES)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_an_unknown_key_of_a_published_config(name):
    raw, _ = published(name)
    text = raw.get("text_config", raw)
    text["rotary_twist"] = 0.5
    with pytest.raises(fj.ConfigError, match=r"rotary_twist = 0\.5"):
        read_config(raw, name)


GENERIC = {
    "add_cross_attention": False,
    "bad_words_ids": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "do_sample": False,
    "id2label": {"0": "LABEL_0"},
    "is_encoder_decoder": False,
    "length_penalty": 1.0,
    "max_length": 20,
    "num_beams": 1,
    "pruned_heads": {},
    "suppress_tokens": None,
    "temperature": 1.0,
    "tie_encoder_decoder": False,
    "tokenizer_class": None,
    "torchscript": False,
    "top_k": 50,
    "typical_p": 1.0,
    "use_bfloat16": False,
}
"""What transformers 4 writes of any config that it saves in full, as it does of nested ones."""


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_generic_keys_of_a_full_dump(name):
    raw, _ = published(name)
    text = raw.get("text_config", raw)
    plain = read_config(raw, name)
    full = raw | {"text_config": GENERIC | text} if "text_config" in raw else GENERIC | raw
    assert read_config(full, name) == plain


def respelled(raw):
    """A file with a rope for all layers as transformers 5 writes it."""
    new = {k: v for k, v in raw.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}
    rope = dict(raw.get("rope_scaling") or {})
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    theta = {"rope_theta": raw["rope_theta"]}
    return new | {"dtype": "bfloat16", "rope_parameters": rope | {"rope_type": kind} | theta}


def older(raw):
    """The same with the first key for the kind of a rope."""
    rope = dict(raw["rope_scaling"])
    rope["type"] = rope.pop("rope_type", rope.get("type"))
    return raw | {"rope_scaling": rope}


BY_KIND = ("gemma3_text", "olmo3")
"""Types whose `rope_parameters` has a rope for each kind of layer."""
WITH_THETA = [name for name in sorted(PUBLISHED) if "rope_theta" in published(name)[0]]


@pytest.mark.parametrize("name", WITH_THETA)
def test_every_spelling_of_a_rope(name):
    raw, _ = published(name)
    plain = read_config(raw, name)
    if raw["model_type"] not in BY_KIND:
        assert read_config(respelled(raw), name) == plain
    if raw.get("rope_scaling"):
        assert read_config(older(raw), name) == plain


def test_llama4s_first_spelling_of_its_temperature():
    raw, _ = published("Llama-4-Scout-17B-16E-Instruct")
    first = raw | {"text_config": raw["text_config"] | {"attn_temperature_tuning": 4}}
    assert read_config(first) == read_config(raw)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("SmolLM2-135M-Instruct", "rope_interleaved", True),
        ("Qwen2.5-7B", "use_mrope", True),
        ("gemma-2-9b", "sliding_window_size", 2048),
        ("NVIDIA-Nemotron-Nano-9B-v2", "attention_head_dim", 64),
        ("Llama-4-Scout-17B-16E-Instruct", "attn_temperature_tuning", 3),
    ],
)
def test_published_keys_at_values_that_change_the_logits(name, key, value):
    raw, _ = published(name)
    raw.get("text_config", raw)[key] = value
    with pytest.raises(fj.UnsupportedError, match=key):
        read_config(raw, name)
