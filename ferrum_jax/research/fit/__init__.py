"""Fitting small things into a frozen model: steering vectors, soft prompts, LoRA, and one's own.

fitted = fit(llm, SteeringVector(layer=3), texts, steps=100, learning_rate=0.05)
llm.generate(prompts, taps=fitted.taps)
"""

from ferrum_jax.research.fit.lora import LoRA
from ferrum_jax.research.fit.result import Fit
from ferrum_jax.research.fit.soft_prompt import SoftPrompt
from ferrum_jax.research.fit.steering import SteeringVector
from ferrum_jax.research.fit.train import fit
from ferrum_jax.research.fit.trainable import Trainable, Value

__all__ = ["Fit", "LoRA", "SoftPrompt", "SteeringVector", "Trainable", "Value", "fit"]
