"""Which attention is chosen, and what is said where it cannot be."""

from dataclasses import replace

import jax
import pytest

import ferrum_jax as fj
from ferrum_jax.attention import choose_attention, paged_attention
from ferrum_jax.attention.kernel import gpu_attention
from ferrum_jax.types import (
    AttentionConfig,
    DataType,
    DeviceInfo,
    KVCacheConfig,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
)
from pallas_kernels import checks
from tests.kernels.triton import needs_triton

CPU = DeviceInfo("cpu", "cpu", 1, None, None)
H200 = DeviceInfo("gpu", "NVIDIA H200", 1, None, None, 9.0)
ATTENTION = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=64, scale=0.1, rope=None)
LATENT = MLAConfig(16, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, scale=0.1, rope=None)
KV = KVCacheConfig(num_pages=100, page_size=16, dtype=DataType.BFLOAT16)


def model(*attentions) -> ModelConfig:
    layers = tuple(LayerSpec(attention, MLPConfig(64)) for attention in attentions)
    return ModelConfig("llama", 100, 256, layers, 1024)


def chosen(name: str, device: DeviceInfo, *attentions, kv: KVCacheConfig = KV) -> str:
    bind = choose_attention(name, device, model(*attentions), kv)
    return "xla" if bind is paged_attention else "triton"


@needs_triton
def test_a_gpu_runs_the_kernels():
    assert chosen("auto", H200, ATTENTION, None, LATENT) == "triton"
    assert chosen("triton", H200, ATTENTION) == "triton"
    assert chosen("xla", H200, ATTENTION) == "xla"
    assert gpu_attention().keywords == {"kernels": "triton", "interpret": False}


def test_a_cpu_runs_xla():
    assert chosen("auto", CPU, ATTENTION) == "xla"
    with pytest.raises(fj.UnsupportedError, match="NVIDIA GPUs, and this is cpu; use 'auto'"):
        chosen("triton", CPU, ATTENTION)


def test_several_devices_run_xla_head_by_head():
    kv, config = KV, model(ATTENTION)
    for name in ("auto", "xla"):
        bind = choose_attention(name, H200, config, kv, num_devices=2)
        assert bind.func is paged_attention
        assert bind.keywords == {"by_head": True}
    with pytest.raises(fj.UnsupportedError, match=r"cannot run here: .* run on one device"):
        choose_attention("triton", H200, config, kv, num_devices=2)


def test_an_engine_refuses_the_kernels_on_a_cpu():
    if jax.devices()[0].platform != "cpu":
        pytest.skip("there is another device than the CPU")
    for attention in ("triton", "mosaic"):
        settings = fj.EngineConfig(attention=attention, num_pages=9, max_model_len=64)
        with pytest.raises(fj.UnsupportedError, match="this is cpu"):
            fj.LLM.load("demo", engine=settings).generate("The")


@pytest.mark.parametrize(
    "device", [replace(H200, compute_capability=7.5), replace(H200, compute_capability=None)]
)
def test_another_gpu_runs_xla(device):
    assert chosen("auto", device, ATTENTION) == "xla"
    with pytest.raises(fj.UnsupportedError, match=r"need compute capability 8\.0|NVIDIA GPUs"):
        chosen("triton", device, ATTENTION)


@needs_triton
def test_a_layer_that_the_kernels_cannot_do_is_named():
    wide = replace(ATTENTION, head_dim=640)
    assert chosen("auto", H200, ATTENTION, wide) == "xla"
    with pytest.raises(fj.UnsupportedError, match="layer 1: heads of 640 elements"):
        chosen("triton", H200, ATTENTION, wide)


@needs_triton
def test_a_pool_whose_offsets_would_overflow_is_named():
    kv = KVCacheConfig(num_pages=3 * 2**19, page_size=16, dtype=DataType.INT8)
    with pytest.raises(fj.UnsupportedError, match=r"between 2\^31 and 2\^32"):
        chosen("triton", H200, ATTENTION, kv=kv)
    assert chosen("auto", H200, ATTENTION, kv=replace(kv, num_pages=3 * 2**20)) == "triton"
    assert chosen("auto", H200, ATTENTION, kv=replace(kv, dtype=DataType.BFLOAT16)) == "triton"


def test_mosaic_says_what_it_cannot_do(monkeypatch):
    monkeypatch.setattr(checks, "mosaic_problem", lambda: None)

    def refused(says, *attentions, device=H200, kv=KV):
        with pytest.raises(fj.UnsupportedError, match=f"'mosaic' cannot run here: .*{says}"):
            chosen("mosaic", device, *attentions, kv=kv)

    def chosen_kernels(*attentions, kv=KV):
        return choose_attention("mosaic", H200, model(*attentions, None), kv).keywords["kernels"]

    refused("Mosaic kernels are for NVIDIA GPUs, and this is cpu", ATTENTION, device=CPU)
    a100 = replace(H200, kind="NVIDIA A100", compute_capability=8.0)
    refused(r"for Hopper GPUs, of compute capability 9\.0, and NVIDIA A100 has 8\.0", device=a100)
    assert chosen_kernels(ATTENTION, LATENT) == "mosaic"
    assert chosen_kernels(ATTENTION, kv=replace(KV, dtype=DataType.INT8)) == "mosaic"
    refused("layer 1: .* up to 576 elements, not 640", ATTENTION, replace(LATENT, kv_rank=576))
    refused("do not do ALiBi", replace(ATTENTION, alibi_slopes=(0.5,) * 4))
    refused("not 24", replace(ATTENTION, head_dim=24))
    refused("up to 256 elements, not 512", replace(ATTENTION, head_dim=512))
    refused("pages of 8, 16, 32, ... tokens, not 24", ATTENTION, kv=replace(KV, page_size=24))
    refused("not float32 over float32", ATTENTION, kv=replace(KV, dtype=DataType.FLOAT32))
    monkeypatch.setattr(checks, "mosaic_problem", lambda: "need the package absl-py")
    refused("need the package absl-py", ATTENTION)
