"""Paged attention for GPUs in Pallas. It imports jax only: arrays and ints in, arrays out.

`paged_attention` takes ragged queries, prefill chunks and decodes beside one another, over pages of
keys and values. It has two implementations:

- `triton`: two Pallas-Triton kernels, `prefill.py` for runs of tokens and `decode.py` for single
  ones (split KV, merged in fp32 in a fixed order). Both share `online.py`, the online softmax.
  From jax 0.10 on; jax has deprecated Pallas-Triton since 0.11.
- `xla`: `reference.py`, plain jnp, for every backend and every jax.

Gradients run through the kernels' results and are computed by XLA (`backward.py`).

What was checked, and what was not:

- Interpreted on a CPU (jax 0.10.2), against fp64: values, options, gradients, bitwise batch
  independence; and whole engine steps.
- Compiled for an H200, an A100 and an RTX 4090 without one (jax 0.11.2), whole steps among them:
  shared memory suffices, no cache is copied; for the H200 no registers spill (but 8 bytes in one
  shape, ptxas 13.5).
- Never run on a GPU: neither its results nor its speed there are known.
"""

from __future__ import annotations

from pallas_kernels.checks import triton_refusal
from pallas_kernels.paged_attention import paged_attention, paged_attention_reference
from pallas_kernels.tuning import Tuning

__all__ = ["Tuning", "paged_attention", "paged_attention_reference", "triton_refusal"]
