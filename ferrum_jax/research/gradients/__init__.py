"""Gradients through the one forward: of the loss, and of a metric to activations."""

from ferrum_jax.research.gradients.activations import ActivationGradients, activation_gradients
from ferrum_jax.research.gradients.floats import value_and_float_grad
from ferrum_jax.research.gradients.integrated import IntegratedGradients, integrated_gradients
from ferrum_jax.research.gradients.loss import loss
from ferrum_jax.research.gradients.patching import AttributionPatching, attribution_patching

__all__ = [
    "ActivationGradients",
    "AttributionPatching",
    "IntegratedGradients",
    "activation_gradients",
    "attribution_patching",
    "integrated_gradients",
    "loss",
    "value_and_float_grad",
]
