"""The settings of a PEFT adapter that its weights do not tell."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ferrum_jax.types import ConfigError, UnsupportedError

OFF = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "layer_replication",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings that make another change of the weights than LoRA's."""
MAX_PATTERN = 200
"""Letters of a pattern of module names."""


@dataclass(frozen=True)
class PeftConfig:
    """Ranks, scales and orientation of a LoRA adapter."""

    where: str
    alpha: float
    fan_in_fan_out: bool
    """The model's projections are stored `[in, out]`."""
    rank_stabilised: bool
    alphas: tuple[tuple[str, float], ...] = ()
    """By a pattern of module names."""

    @classmethod
    def read(cls, raw: dict[str, Any], where: str) -> PeftConfig:
        """From `adapter_config.json`.

        Raises:
            UnsupportedError: the adapter is no plain LoRA.
            ConfigError: a value is none.
        """
        kind = raw.get("peft_type")
        if kind != "LORA":
            raise UnsupportedError(f"{where}: peft_type is {kind!r}; LORA is the one that is read")
        for key in OFF:
            if raw.get(key):
                raise UnsupportedError(
                    f"{where}: {key} is {raw[key]!r}, which plain LoRA does not have; merge the "
                    "adapter into the model with PEFT's merge_and_unload"
                )
        if raw.get("bias", "none") != "none":
            raise UnsupportedError(
                f"{where}: bias is {raw['bias']!r}; adapters change matrices only: merge the "
                "adapter into the model with PEFT's merge_and_unload"
            )
        alphas = raw.get("alpha_pattern") or {}
        for pattern in alphas:
            _check_pattern(pattern, where)
        return cls(
            where=where,
            alpha=_number(raw, "lora_alpha", where),
            fan_in_fan_out=bool(raw.get("fan_in_fan_out", False)),
            rank_stabilised=bool(raw.get("use_rslora", False)),
            alphas=tuple((name, _number(alphas, name, where)) for name in alphas),
        )

    def scale(self, module: str, rank: int) -> float:
        """What `B A` of a module is multiplied by: alpha over the rank, or over its root.

        A key of `alpha_pattern` is for the modules whose names end with it, or match it as a
        regular expression up to there.
        """
        alpha = self.alpha
        for pattern, value in self.alphas:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _check_pattern(pattern: str, where: str) -> None:
    """A pattern is matched against every module's name: one that takes for ever is refused."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{where}: alpha_pattern has {pattern!r}: {error}") from error
    if len(pattern) > MAX_PATTERN or re.search(r"\)[*+{]", pattern):
        raise ConfigError(
            f"{where}: alpha_pattern has {pattern[:MAX_PATTERN]!r}; it may have {MAX_PATTERN} "
            "letters, and no repeated groups"
        )


def _number(raw: dict[str, Any], key: str, where: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: {key} is {value!r}; it must be a finite number")
    return float(value)
