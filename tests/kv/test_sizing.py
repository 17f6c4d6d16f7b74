"""The size of a cache follows the settings and the memory, or says what would."""

import re

import pytest

from ferrum_jax.kv import cache_bytes, plan_cache, slot_bytes, state_bytes
from ferrum_jax.models.families import read_config
from ferrum_jax.types import (
    ConfigError,
    DataType,
    EngineConfig,
    KVCacheConfig,
    ResourceExhausted,
)
from tests.kv.models import model
from tests.parity.golden import raw_config

CONFIG = model((2, 8), (2, 8))
TOKEN = 2 * 2 * 2 * 8 * 4
"""Bytes of one token's keys and values in float32."""


def plan(free_bytes, *, max_model_len=64, dtype=DataType.FLOAT32, **settings) -> KVCacheConfig:
    engine = EngineConfig(**{"max_num_seqs": 4, "page_size": 8, **settings})
    return plan_cache(
        CONFIG, engine, dtype=dtype, max_model_len=max_model_len, free_bytes=free_bytes
    )


def test_num_pages_is_taken_as_it_stands():
    assert plan(10**9, num_pages=1000) == KVCacheConfig(1000, 8, DataType.FLOAT32)
    assert plan(None, num_pages=2).num_pages == 2


def test_num_pages_beyond_the_free_memory_names_what_fits():
    with pytest.raises(ResourceExhausted, match=r"num_pages = 101 .* at most 100"):
        plan(100 * 8 * TOKEN, num_pages=101)
    with pytest.raises(ResourceExhausted, match=r"lower EngineConfig\.page_size"):
        plan(8 * TOKEN, num_pages=2)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_the_cache_keeps_within_its_share(fraction):
    free = 123 * TOKEN * 8
    kv = plan(free, memory_fraction=fraction, max_num_seqs=512, max_num_batched_tokens=512)
    used = cache_bytes(CONFIG, kv)
    assert used <= fraction * free < used + 8 * TOKEN


@pytest.mark.parametrize("free_bytes", [10**12, None])
def test_no_more_pages_than_the_sequences_can_fill(free_bytes):
    assert plan(free_bytes).num_pages == 4 * 8 + 1
    assert plan(free_bytes, max_model_len=65).num_pages == 4 * 9 + 1


def test_unknown_memory_allows_a_gibibyte():
    kv = plan(None, max_model_len=10**7)
    assert cache_bytes(CONFIG, kv) <= 2**30 < cache_bytes(CONFIG, kv) + 8 * TOKEN


def test_a_cache_smaller_than_one_sequence_is_allowed():
    assert plan(3 * 8 * TOKEN, memory_fraction=1.0, max_model_len=10_000).num_pages == 3


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("auto", DataType.BFLOAT16), ("float32", DataType.FLOAT32), ("bf16", DataType.BFLOAT16)],
)
def test_the_dtype_is_that_of_the_weights_unless_it_is_named(name, dtype):
    assert plan(10**9, dtype=DataType.BFLOAT16, kv_dtype=name).dtype is dtype


@pytest.mark.parametrize(
    ("name", "dtype", "token"),
    [
        ("int8", DataType.INT8, 2 * 2 * 2 * (8 + 4)),
        ("fp8", DataType.FLOAT8_E4M3FN, 2 * 2 * 2 * (8 + 4)),
        ("fp8_e4m3", DataType.FLOAT8_E4M3FN, 2 * 2 * 2 * (8 + 4)),
    ],
)
def test_a_quantised_cache_is_sized_with_its_scales(name, dtype, token):
    kv = plan(100 * 8 * token, kv_dtype=name, memory_fraction=1.0, max_model_len=10_000)
    assert kv == KVCacheConfig(100, 8, dtype)
    with pytest.raises(ResourceExhausted, match=r"num_pages = 101 .* at most 100"):
        plan(100 * 8 * token, kv_dtype=name, num_pages=101)


def test_a_dtype_that_no_cache_has_is_refused():
    with pytest.raises(ConfigError, match=r"kv_dtype 'int4' is not known; .*auto.*int8.*float8"):
        EngineConfig(kv_dtype="int4")


@pytest.mark.parametrize(
    ("dtype", "allowed", "remedy"),
    [
        (DataType.FLOAT32, 8 * TOKEN, "bfloat16"),
        (DataType.FLOAT32, 8 * TOKEN - 1, "int8"),
        (DataType.BFLOAT16, 8 * TOKEN - 1, "int8"),
        (DataType.FLOAT16, 8 * TOKEN - 1, "int8"),
        (DataType.FLOAT32, 8 * TOKEN * 3 // 4 - 1, None),
        (DataType.INT8, 8 * TOKEN * 3 // 4 - 1, None),
    ],
)
def test_the_widest_kv_dtype_that_would_fit_is_a_remedy(dtype, allowed, remedy):
    """Two pages: 16 x 2 heads x 2 layers x 2 of 8 floats; 16 bytes in bf16, 12 in int8."""
    with pytest.raises(ResourceExhausted) as error:
        plan(allowed, dtype=dtype, memory_fraction=1.0)
    assert re.findall(r'kv_dtype = "(\w+)"', str(error.value)) == ([remedy] if remedy else [])
    if remedy:
        assert plan(allowed, dtype=dtype, memory_fraction=1.0, kv_dtype=remedy).num_pages == 2


@pytest.mark.parametrize("free", [2 * 8 * TOKEN, 3 * 8 * TOKEN, 10 * TOKEN, 8 * TOKEN])
def test_less_than_two_pages_is_refused_and_each_remedy_works(free):
    with pytest.raises(ResourceExhausted, match="2 pages of 8 tokens takes 4,096 bytes") as error:
        plan(free, memory_fraction=0.5)
    remedies = re.findall(r'(\w+) = "?([\w.]+)"?(?= or |$)', str(error.value).split("; ")[-1])
    assert remedies
    kinds = {"kv_dtype": str, "page_size": int, "memory_fraction": float}
    for name, value in remedies:
        change = {name: kinds[name](value)}
        assert plan(free, **{"memory_fraction": 0.5, **change}).num_pages >= 2


def test_no_memory_at_all_asks_for_memory():
    with pytest.raises(ResourceExhausted, match="free device memory"):
        plan(0)


def test_unknown_memory_and_vast_pages_ask_for_smaller_ones():
    wide = model((2**12, 2**12))
    with pytest.raises(ResourceExhausted, match=r"does not tell .* page_size = 4 or num_pages = 2"):
        plan_cache(
            wide,
            EngineConfig(page_size=16),
            dtype=DataType.FLOAT32,
            max_model_len=64,
            free_bytes=None,
        )


def recurrent(max_num_seqs, free_bytes):
    config = read_config(raw_config("mamba"))
    engine = EngineConfig(max_num_seqs=max_num_seqs, page_size=8)
    kv = plan_cache(config, engine, dtype=DataType.FLOAT32, max_model_len=64, free_bytes=free_bytes)
    return config, kv


def test_pages_without_keys_take_no_memory_and_need_none():
    config, kv = recurrent(4, None)
    needed = state_bytes(config, 4)
    assert needed == 5 * slot_bytes(config) > 0
    assert recurrent(4, needed)[1] == kv == KVCacheConfig(4 * 8 + 1, 8, DataType.FLOAT32)
    assert cache_bytes(config, kv) == 0


def test_states_that_do_not_fit_ask_for_fewer_sequences():
    config, _ = recurrent(4, None)
    with pytest.raises(ResourceExhausted, match=r"recurrent states .* = 4 .* lower max_num_seqs"):
        recurrent(4, state_bytes(config, 4) - 1)
