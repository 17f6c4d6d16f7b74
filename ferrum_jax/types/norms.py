"""The kinds of normalisation, and where a block applies them."""

from __future__ import annotations

from enum import StrEnum


class NormKind(StrEnum):
    """How a normalisation scales its input; all compute in fp32."""

    RMS = "rms"
    """x / rms(x) * w (Zhang and Sennrich 2019)."""
    RMS_UNIT_OFFSET = "rms_unit_offset"
    """x / rms(x) * (1 + w), as Gemma stores its weights."""
    RMS_UNSCALED = "rms_unscaled"
    """x / rms(x), without weights."""
    LAYER = "layer"
    """(x - mean) / std * w + b (Ba et al. 2016)."""
    LAYER_UNBIASED = "layer_unbiased"
    """(x - mean) / std * w."""
    LAYER_UNSCALED = "layer_unscaled"
    """(x - mean) / std, without weights."""
    LAYER_UNIT_OFFSET = "layer_unit_offset"
    """(x - mean) / std * (1 + w) + b, as Nemotron stores its weights."""

    @property
    def centred(self) -> bool:
        """Whether the mean is taken away."""
        return self.startswith("layer")

    @property
    def unit_offset(self) -> bool:
        """Whether the weights are stored less one."""
        return self.endswith("unit_offset")

    @property
    def scaled(self) -> bool:
        return not self.endswith("unscaled")

    @property
    def biased(self) -> bool:
        return self in (NormKind.LAYER, NormKind.LAYER_UNIT_OFFSET)


class NormPlacement(StrEnum):
    """Where a block normalises."""

    PRE = "pre"
    """x + f(norm(x))."""
    POST = "post"
    """x + norm(f(x))."""
    SANDWICH = "sandwich"
    """x + norm(f(norm(x))): four norms a layer."""
    AFTER_SUM = "after_sum"
    """norm(x + f(x)), as the first transformers did (Vaswani et al. 2017)."""
