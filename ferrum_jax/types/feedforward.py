"""Feed-forward blocks: dense and mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Activation(StrEnum):
    """The non-linearity of an MLP."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    QUICK_GELU = "quick_gelu"
    """x * sigmoid(1.702 x)."""
    RELU = "relu"
    RELU_SQUARED = "relu_squared"
    XIELU = "xielu"
    """With two learned figures a layer (Huang and Schlag 2024)."""


@dataclass(frozen=True)
class MLPConfig:
    """A dense feed-forward block: gated (`act(x W_gate) * (x W_up)`) or plain (`act(x W_up)`)."""

    ffn_size: int
    activation: Activation = Activation.SILU
    gated: bool = True
    mlp_bias: bool = False
    gate_scale: float = 1.0
    down_scale: float = 1.0
    """Multipliers of the gate before its activation and of the output (Falcon H1)."""


class RouterKind(StrEnum):
    """How a router turns its logits into the experts' weights; all compute in fp32."""

    SOFTMAX = "softmax"
    """Over all experts, of which the k best are kept."""
    SOFTMAX_OF_CHOSEN = "softmax_of_chosen"
    """Over the k best logits."""
    SIGMOID = "sigmoid"
    """Of each logit by itself."""
    SPARSE_MIXER = "sparse_mixer"
    """One expert after the other, each by a softmax over the logits close to the largest
    (Liu et al. 2023)."""


class GroupScore(StrEnum):
    """By what a group of experts is chosen before its experts are."""

    MAX = "max"
    TOP2_SUM = "top2_sum"


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts: a router in fp32, the k best experts per token."""

    num_experts: int
    experts_per_token: int
    ffn_size: int
    activation: Activation = Activation.SILU
    norm_topk: bool = True
    """Divide the chosen weights by their sum."""
    router: RouterKind = RouterKind.SOFTMAX
    router_bias: bool = False
    """The router's logits have a bias."""
    choice_bias: bool = False
    """A bias that takes part in choosing the experts and not in their weights."""
    router_norm: bool = False
    """The router reads its input normed and scaled by weights of its own (Gemma 4)."""
    expert_scale: bool = False
    """Each expert's weight is multiplied by a learned number of its own."""
    router_jitter: float = 0.01
    """Of the sparse mixer: how far below the largest logit the others count."""
    groups: int = 1
    """Experts stand in so many groups of equal size, ..."""
    groups_kept: int = 1
    """... of which so many take part."""
    group_score: GroupScore = GroupScore.TOP2_SUM
    weight_scale: float = 1.0
    """Multiplier of the chosen weights."""
    norm_eps: float = 0.0
    """Added to the sum that the chosen weights are divided by."""
    norm_floor: float = 0.0
    """The least that they are divided by."""
    weights_scale_input: bool = False
    """An expert's weight multiplies what it is given, not what it returns (Llama 4)."""
    gated: bool = True
    expert_bias: bool = False
    clamp: float | None = None
    """Gate at most `clamp`, up within [-clamp, clamp] (gpt-oss)."""
    up_offset: float = 0.0
    """Added to the up projection."""
    swish_alpha: float | None = None
    """The gate's activation is x * sigmoid(alpha x); None: `activation`."""
    latent_size: int | None = None
    """Experts work on a projection to so many elements (Nemotron H)."""
    shared: MLPConfig | None = None
    """An expert that every token goes through."""
    shared_gate: bool = False
    """Its output is multiplied by the sigmoid of one more logit."""
