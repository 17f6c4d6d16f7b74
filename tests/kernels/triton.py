"""What tests of Pallas-Triton kernels need to know of this jax."""

from __future__ import annotations

import jax
import pytest
from jax.experimental.pallas import triton as plgpu

needs_triton = pytest.mark.skipif(
    not hasattr(plgpu, "load"),
    reason=f"jax {jax.__version__} has no masked load in Pallas-Triton; the kernels need jax 0.10",
)
allow_deprecated = pytest.mark.filterwarnings(
    "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"
)
