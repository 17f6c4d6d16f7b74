"""Paged attention for GPUs in Pallas. It imports jax only: arrays and ints in, arrays out.

`paged_attention` takes ragged queries, prefill chunks and decodes beside one another, over pages of
keys and values. It has three implementations:

- `triton`: two Pallas-Triton kernels, `prefill.py` for runs of tokens and `decode.py` for single
  ones (split KV, merged in fp32 in a fixed order). Both share `online.py`, the online softmax.
  From jax 0.10 on; jax has deprecated Pallas-Triton since 0.11.
- `mosaic`: Pallas-Mosaic kernels for Hopper GPUs, `mosaic_prefill.py` and `mosaic_decode.py` with
  `mosaic_merge.py`, over `mosaic_online.py` and `mosaic_pages.py`: TMA, wgmma, one warpgroup that
  copies and others that multiply. From jax 0.11 on. Pages of 16 and 8 bits, heads of multiples of
  16 up to 256, latent attention up to 576; no fp32, no ALiBi.
- `xla`: `reference.py`, plain jnp, for every backend and every jax.

`pallas_kernels.fused` has kernels for what surrounds attention: norm, rope and the writing of
pages, products with rounded weights and with experts, sampling.

Gradients run through the kernels' results and are computed by XLA (`backward.py`).

What was checked, and what was not:

- Interpreted on a CPU (jax 0.10.2; Mosaic with 0.11.2, its races looked for), against fp64: values,
  options, gradients, bitwise batch independence; and whole engine steps.
- Compiled for an H200, an A100 and an RTX 4090 without one (jax 0.11.2), whole steps among them:
  shared memory suffices, no cache is copied. For the H200 hardly any registers spill (ptxas 13.5):
  8 bytes in one shape of Triton's; of Mosaic's 4 with int8 pages, 272 with heads of 256, and with
  latent attention 2,616, where Triton's may well be faster. Mosaic for the H200 only.
- Never run on a GPU: neither its results nor its speed there are known.
"""

from __future__ import annotations

from pallas_kernels.checks import mosaic_refusal, triton_refusal
from pallas_kernels.paged_attention import paged_attention, paged_attention_reference
from pallas_kernels.tuning import Tuning

__all__ = [
    "Tuning",
    "mosaic_refusal",
    "paged_attention",
    "paged_attention_reference",
    "triton_refusal",
]
