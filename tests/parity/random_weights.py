"""Deterministic random weights and token ids, named rather than stored.

A golden case holds logits and a seed but no weights: the program that wrote it and the test that
reads it both call `make_tensor` with the same checkpoint name and so get the same numbers, bit for
bit, in different Python environments and years apart.

numpy promises (NEP 19) that the *raw* stream of a bit generator never changes, and does not
promise that for `Generator` methods such as `standard_normal`. So the raw 64-bit words of Philox,
keyed by a SHA-256 of (seed, name), are turned into floats here by exact arithmetic: the top 24 bits
of each word are an exact float32 in [0, 1), and everything after that is one correctly rounded
IEEE operation at a time. The entries are uniform rather than normal; a random test needs no tails.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

EMBEDDING_STD = 0.1
BIAS_STD = 0.25
SOFTMAX_BIAS_STD = 0.05
"""Of a bias that is added to the probabilities of experts."""


XIELU_FIGURES = {"act_fn.beta": 0.5, "act_fn.eps": -1e-6}
"""Stored in checkpoints of xIELU and the same in all of them."""

GEMMA4_FACTORS = {"layer_scalar": 1.0, "router.per_expert_scale": 1.0, "router.scale": 4.0}
"""Factors of Gemma 4 which are around so much."""

CONV1D = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
"""Projections of GPT-2, which are stored [in, out]."""


def uniform(label: str, count: int, seed: int) -> np.ndarray:
    """`count` float32 values in [0, 1), a function of (label, seed) only."""
    digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def make_tensor(
    name: str, shape: tuple[int, ...], seed: int, *, norm_low: float = 0.5
) -> np.ndarray:
    """The float32 weight called `name` in a checkpoint.

    Norm weights lie in [norm_low, norm_low + 1): around 1 by default, around 0 with -0.5 for the
    families whose norm multiplies by 1 + weight. They spread, so that a weight left out, or a `1 +`
    left out or put in, changes every logit. Biases and sinks are not zero for the same reason.

    A projection has a standard deviation of 1 / sqrt(fan_in), where fan_in is the last axis, as in
    a `torch.nn.Linear` weight [out, in]; activations then keep a scale of about one. Embeddings are
    small: a model that ties them would otherwise repeat its last token, and beside a large
    embedding the epsilon of the first norm would not show.

    `A_log`, the log of a recurrence's rate of decay, lies in [-4, 0): some heads remember three
    tokens and some a hundred.
    """
    for figure, value in XIELU_FIGURES.items():
        if name.endswith(figure):
            return np.full(shape, value, np.float32)
    u = uniform(name, math.prod(shape), seed).reshape(shape)
    if name.endswith("word_embeddings_layernorm.weight"):
        return (u + np.float32(norm_low)) * np.float32(EMBEDDING_STD)
    if _is_norm(name) and name.endswith("weight"):
        return u + np.float32(norm_low)
    for factor, size in GEMMA4_FACTORS.items():
        if name.endswith(factor):
            return (u + np.float32(0.5)) * np.float32(size)
    if name.endswith("A_log"):
        return (u - np.float32(1)) * np.float32(4)
    return (u * np.float32(2) - np.float32(1)) * np.float32(math.sqrt(3) * _std(name, shape))


def make_tokens(label: str, count: int, vocab_size: int, seed: int) -> np.ndarray:
    """`count` int32 token ids in [0, vocab_size)."""
    return (uniform(f"tokens/{label}", count, seed) * np.float32(vocab_size)).astype(np.int32)


def _is_norm(name: str) -> bool:
    return any("norm" in part or part.startswith("ln_") for part in name.split("."))


def _std(name: str, shape: tuple[int, ...]) -> float:
    if "embed" in name or name.endswith(("wte.weight", "wpe.weight")):
        return EMBEDDING_STD
    if name.endswith("moe_statics.e_score_correction_bias"):
        return SOFTMAX_BIAS_STD
    if name.endswith("bias") or len(shape) < 2:
        return BIAS_STD
    if name.endswith(CONV1D) and ".h." in name:
        return 1 / math.sqrt(shape[0])
    return 1 / math.sqrt(shape[-1])
