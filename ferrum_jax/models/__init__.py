"""Functional model definitions: configs in, pure functions of parameters and tokens."""

from ferrum_jax.models.decoder import forward, forward_capture, unembed
from ferrum_jax.models.params import Params, check_params, init_params, param_shapes

__all__ = [
    "Params",
    "check_params",
    "forward",
    "forward_capture",
    "init_params",
    "param_shapes",
    "unembed",
]
