"""Mixers that keep a state per sequence: a file each, and one function over ragged tokens.

A mixer's module has `shapes(spec, width)`, its parameters with tuples of ints for leaves, and
`mix(x, params, spec, run)`, where `run` takes its chunk function along the sequences.
"""

from __future__ import annotations

from types import ModuleType

from ferrum_jax.models.mixers import (
    delta,
    kimi_delta,
    lightning,
    mamba,
    mamba2,
    short_conv,
)
from ferrum_jax.types import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    Mamba2Config,
    MambaConfig,
    RecurrentConfig,
    ShortConvConfig,
)

MIXERS: dict[type, ModuleType] = {
    GatedDeltaConfig: delta,
    KDAConfig: kimi_delta,
    LightningConfig: lightning,
    Mamba2Config: mamba2,
    MambaConfig: mamba,
    ShortConvConfig: short_conv,
}


def mixer_of(spec: RecurrentConfig) -> ModuleType:
    """The module that runs a recurrent layer."""
    return MIXERS[type(spec)]
