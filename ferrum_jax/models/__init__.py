"""Functional model definitions: configs in, pure functions of parameters and tokens."""

from ferrum_jax.models.decoder import forward, forward_capture, unembed
from ferrum_jax.models.init import init_params
from ferrum_jax.models.params import Params
from ferrum_jax.models.shapes import check_params, param_shapes

__all__ = [
    "Params",
    "check_params",
    "forward",
    "forward_capture",
    "init_params",
    "param_shapes",
    "unembed",
]
