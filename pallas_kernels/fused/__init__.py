"""Kernels for what a layer does beside attention, and for sampling: one launch instead of many.

- `add_rms_norm` (`norm.py`): the sum of the residual stream, and the norm behind it.
- `rope_write` (`rope_write.py`): queries and keys turned, keys and values put into their pages.
- `top_p_sample` (`top_p.py`): a token of each row by top-k, top-p and min-p, without a sort.
- `quantised_matmul` (`quantised_matmul.py`): rows times weights that stay rounded in memory.
- `grouped_matmul` (`grouped_matmul.py`): rows times the matrix of their group, as of an expert.

All are Pallas-Triton, from jax 0.10 on, and have a statement in plain jnp beside them
(`..._reference`). They were interpreted on a CPU against fp64 and compiled for an H200, an A100 and
an RTX 4090, but never run on a GPU. The models use what XLA fuses by itself until a GPU has
measured that these are faster (`experiments/022_gpu_fused`).
"""

from __future__ import annotations

from pallas_kernels.fused.grouped_matmul import grouped_matmul
from pallas_kernels.fused.norm import add_rms_norm
from pallas_kernels.fused.quantised_matmul import quantised_matmul
from pallas_kernels.fused.rope_write import rope_write
from pallas_kernels.fused.top_p import top_p_sample

__all__ = ["add_rms_norm", "grouped_matmul", "quantised_matmul", "rope_write", "top_p_sample"]
