"""Attention over ragged tokens: dense and differentiable, or paged and cached."""

from ferrum_jax.attention.dense import dense_attention, dense_attention_of_rows
from ferrum_jax.attention.kernel import BindAttention, choose_attention, gpu_attention
from ferrum_jax.attention.paged import PagedMeta, paged_attention, paged_meta

__all__ = [
    "BindAttention",
    "PagedMeta",
    "choose_attention",
    "dense_attention",
    "dense_attention_of_rows",
    "gpu_attention",
    "paged_attention",
    "paged_meta",
]
