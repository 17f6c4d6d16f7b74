"""Attention over ragged tokens: dense and differentiable, or paged and cached."""

from ferrum_jax.attention.dense import dense_attention, dense_attention_of_rows
from ferrum_jax.attention.kernel import BindAttention, choose_attention, gpu_attention
from ferrum_jax.attention.layout import PagedMeta, layout_in_tiles, paged_meta
from ferrum_jax.attention.paged import paged_attention

__all__ = [
    "BindAttention",
    "PagedMeta",
    "choose_attention",
    "dense_attention",
    "dense_attention_of_rows",
    "gpu_attention",
    "layout_in_tiles",
    "paged_attention",
    "paged_meta",
]
