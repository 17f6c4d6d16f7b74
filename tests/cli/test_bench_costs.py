"""What a step must do at least, for layers of every kind: by hand."""

import math
from functools import partial

import pytest

from ferrum_jax.cli.bench_costs import decode_cost, prefill_cost
from ferrum_jax.kv import slot_bytes
from ferrum_jax.models.families import read_config
from ferrum_jax.models.quantized import quantises
from ferrum_jax.models.shapes import flatten_shapes
from tests.parity.golden import case_names, raw_config


def config_of(name, **changes):
    return read_config(raw_config(name, **changes), name)


def weights(config, *, without=()):
    """Elements of the layers' parameters, those whose name ends like one of `without` left out."""
    return sum(
        math.prod(shape)
        for name, shape in flatten_shapes(config).items()
        if name.startswith("layers.") and not name.endswith(tuple(without))
    )


def test_states_are_read_and_written_whatever_the_context():
    config = config_of("mamba2")
    mixer = config.layers[0].recurrent
    state = mixer.num_heads * mixer.head_dim * mixer.state_size
    conv = (mixer.conv_size - 1) * mixer.conv_channels
    assert slot_bytes(config) == config.num_layers * 4 * (state + conv)
    one, two = (decode_cost(config, batch, 100, 4) for batch in (1, 2))
    assert two.bytes - one.bytes == 2 * slot_bytes(config)
    assert decode_cost(config, 1, 10_000, 4) == one
    logits = config.vocab_size * config.hidden_size
    matrices = 2 * (weights(config) + logits)
    assert one.flops == matrices + config.num_layers * 4 * state
    whole = prefill_cost(config, 3, 5, 4)
    assert whole.flops == 3 * (
        5 * (2 * weights(config) + config.num_layers * 4 * state) + 2 * logits
    )
    assert whole.bytes == 4 * (weights(config) + logits) + 3 * slot_bytes(config)


def test_delta_rules_read_their_state_twice():
    config = config_of("qwen3_next")
    rule, attention = config.layers[0].recurrent, config.layers[3].attention
    state = rule.num_value_heads * rule.key_dim * rule.value_dim
    near, far = (decode_cost(config, 1, context, 4) for context in (1, 51))
    a_key = 4 * attention.num_heads * attention.head_dim
    assert far.flops - near.flops == 50 * a_key
    experts = (".mlp.gate", ".mlp.up", ".mlp.down")
    moe = config.layers[0].mlp
    each = weights(config) - weights(config, without=experts)
    touched = weights(config, without=experts) + each * moe.experts_per_token / moe.num_experts
    logits = config.vocab_size * config.hidden_size
    assert near.flops == pytest.approx(2 * (touched + logits) + 3 * 6 * state + a_key)


def test_a_shared_expert_and_the_router_are_always_read():
    config = config_of("deepseek_v3", n_routed_experts=64, n_group=1, topk_group=1)
    none = decode_cost(config, 1, 0, 4).bytes
    all_of_them = decode_cost(config, 10_000, 0, 4).bytes
    experts = (".mlp.gate", ".mlp.up", ".mlp.down")
    named = {k for k in flatten_shapes(config) if k.endswith(experts) and "layers.0" not in k}
    sizes = sum(math.prod(flatten_shapes(config)[name]) for name in named)
    assert all_of_them - none == pytest.approx(4 * sizes * (1 - 3 / 64))


def test_latent_attention_reads_one_vector_and_multiplies_it_in_every_head():
    config = config_of("deepseek_v3")
    a = config.layers[0].attention
    near, far = (decode_cost(config, 3, context, 4) for context in (10, 11))
    assert far.bytes - near.bytes == 3 * config.num_layers * 4 * (a.kv_rank + a.rope_dim)
    latent = 2 * a.num_heads * (2 * a.kv_rank + a.rope_dim)
    assert far.flops - near.flops == 3 * config.num_layers * latent
    heads = 2 * a.num_heads * (a.nope_dim + a.rope_dim + a.value_dim)
    assert heads < latent
    two, one = prefill_cost(config, 1, 2, 4).flops, prefill_cost(config, 1, 1, 4).flops
    three = prefill_cost(config, 1, 3, 4).flops
    assert (three - two) - (two - one) == pytest.approx(config.num_layers * heads)


def test_shared_keys_are_read_by_each_layer_and_held_by_one():
    config = config_of("gemma4_text_shared")
    near, far = (decode_cost(config, 1, context, 4).bytes for context in (1, 2))
    sizes = [2 * s.attention.num_kv_heads * s.attention.head_dim for s in config.layers]
    assert any(spec.attention.kv_from is not None for spec in config.layers)
    assert far - near == 4 * sum(sizes)


def test_keys_of_other_chunks_are_not_seen():
    config = config_of("llama4_text")
    chunked = [spec.attention for spec in config.layers if spec.attention.chunk]
    full = [spec.attention for spec in config.layers if not spec.attention.chunk]
    assert {a.chunk for a in chunked} == {8}
    assert len(full) == 1
    last, first = (decode_cost(config, 1, context, 4).flops for context in (8, 9))
    a_key = 4 * full[0].num_heads * full[0].head_dim
    assert first - last == a_key - 7 * len(chunked) * a_key


def test_projected_embeddings_are_multiplied():
    config = config_of("opt_norm_after")
    plain = decode_cost(config, 1, 0, 4).flops
    inner, width = config.embed_size, config.hidden_size
    ends = inner * width + config.vocab_size * inner + inner * width
    assert plain == 2 * (weights(config) + ends)


def test_rounded_weights_are_a_byte_each():
    config = config_of(case_names("llama")[0])
    shapes = flatten_shapes(config)
    rounded = sum(math.prod(shape) for name, shape in shapes.items() if quantises(name))
    assert rounded > 0
    for cost in (partial(decode_cost, config, 2, 50), partial(prefill_cost, config, 1, 5)):
        plain, int8 = cost(4), cost(4, quantization="int8")
        assert plain.bytes - int8.bytes == 3 * rounded
        assert plain.flops == int8.flops
