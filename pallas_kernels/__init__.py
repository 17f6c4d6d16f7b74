"""GPU kernels in Pallas. They import jax only: arrays and ints in, arrays out.

Each file holds a kernel, its wrapper and its statement in plain jnp (`..._reference`). The engine
uses none of them yet: each waits to be measured on a GPU.

- `paged_decode`: one query token a row over paged keys and values; Pallas-Triton, split KV.

What was checked, and what was not:

- Interpreted on a CPU (jax 0.10.2 and 0.12.0): values, options and bitwise batch independence.
- Lowered for CUDA without a GPU (jax 0.10.2 and 0.12.0), pools of 2^33 elements among them.
- Compiled for an H200 without one, in four shapes (jax 0.10.2, ptxas 13.0): at most 128 registers a
  thread and no spills.
- Never run on a GPU: neither its results nor its speed there are known.

jax has deprecated Pallas-Triton since 0.11; with jax 0.5 only the references run.
"""

from __future__ import annotations

from pallas_kernels.paged_decode import paged_decode, paged_decode_reference

__all__ = ["paged_decode", "paged_decode_reference"]
