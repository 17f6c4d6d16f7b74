"""Mixers that keep a state per sequence in place of keys and values.

`state_shapes` names the arrays of one sequence's state; all are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


class Recurrent:
    """What all of them have: a state, an output, and a gate on it."""

    @property
    def state_shapes(self) -> Shapes:
        """The arrays of one sequence's state."""
        raise NotImplementedError

    @property
    def output_shape(self) -> tuple[int, ...]:
        """A token's share of what the recurrence returns."""
        raise NotImplementedError

    @property
    def gate_shape(self) -> tuple[int, ...]:
        return self.output_shape

    @property
    def sites(self) -> Shapes:
        """What can be read and changed inside: a token's share of each."""
        states = {name: shape for name, shape in self.state_shapes.items() if name == "state"}
        return {"gate": self.gate_shape, "y": self.output_shape, **states}


@dataclass(frozen=True)
class MambaConfig(Recurrent):
    """Selective scan (Gu and Dao 2023)."""

    inner_size: int
    state_size: int
    conv_size: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False

    @property
    def state_shapes(self) -> Shapes:
        return {
            "conv": (self.conv_size - 1, self.inner_size),
            "state": (self.inner_size, self.state_size),
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.inner_size,)


@dataclass(frozen=True)
class Mamba2Config(Recurrent):
    """Structured state-space duality, SSD (Dao and Gu 2024)."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    """Heads of a group share B and C."""
    conv_size: int
    conv_bias: bool = True
    proj_bias: bool = False
    out_bias: bool = False
    norm_eps: float | None = 1e-5
    """Of the gated norm; None: the output is gated and not normalised."""
    norm_group: int | None = None
    """Elements that the gated norm runs over; None: all."""
    gate_first: bool = True
    """Gate before the norm, rather than after it."""
    dt_min: float = 0.0
    dt_max: float = float("inf")
    """What softplus(dt) is cut to."""
    input_scale: float = 1.0
    part_scales: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Multipliers of the projected gate, x, B, C and dt (Falcon H1)."""

    @property
    def inner_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Elements of x, B and C together."""
        return self.inner_size + 2 * self.num_groups * self.state_size

    @property
    def state_shapes(self) -> Shapes:
        return {
            "conv": (self.conv_size - 1, self.conv_channels),
            "state": (self.num_heads, self.head_dim, self.state_size),
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_heads, self.head_dim)

    @property
    def gate_shape(self) -> tuple[int, ...]:
        return (self.inner_size,)


@dataclass(frozen=True)
class GatedDeltaConfig(Recurrent):
    """Gated delta rule (Yang, Kautz and Hatamizadeh 2024)."""

    num_key_heads: int
    num_value_heads: int
    """Value heads share key heads in equal runs."""
    key_dim: int
    value_dim: int
    conv_size: int
    norm_eps: float = 1e-6
    """Of the gated norm of each head's output."""

    @property
    def conv_channels(self) -> int:
        """Elements of queries, keys and values together."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim

    @property
    def state_shapes(self) -> Shapes:
        return {
            "conv": (self.conv_size - 1, self.conv_channels),
            "state": (self.num_value_heads, self.key_dim, self.value_dim),
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_value_heads, self.value_dim)


@dataclass(frozen=True)
class KDAConfig(Recurrent):
    """Kimi delta attention (Kimi Team 2025): the gated delta rule with a decay per key element."""

    num_heads: int
    head_dim: int
    conv_size: int
    norm_eps: float = 1e-5

    @property
    def inner_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def state_shapes(self) -> Shapes:
        return {
            "conv": (self.conv_size - 1, 3 * self.inner_size),
            "state": (self.num_heads, self.head_dim, self.head_dim),
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_heads, self.head_dim)


@dataclass(frozen=True)
class LightningConfig(Recurrent):
    """Lightning attention (Qin et al. 2024): linear attention with a fixed decay per head."""

    num_heads: int
    head_dim: int
    decays: tuple[float, ...]
    """Per head what the logarithm of the state loses at each token."""
    norm_eps: float = 1e-6
    """Of the norm of the output."""

    @property
    def state_shapes(self) -> Shapes:
        return {"state": (self.num_heads, self.head_dim, self.head_dim)}

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_heads, self.head_dim)


@dataclass(frozen=True)
class ShortConvConfig(Recurrent):
    """A gated short convolution (Liquid AI's LFM2)."""

    size: int
    channels: int
    bias: bool = False

    @property
    def state_shapes(self) -> Shapes:
        return {"conv": (self.size - 1, self.channels)}

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.channels,)


RecurrentConfig = (
    MambaConfig | Mamba2Config | GatedDeltaConfig | KDAConfig | LightningConfig | ShortConvConfig
)
