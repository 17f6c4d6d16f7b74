"""Reading a Hugging Face `config.json` strictly: every key is read, ignored by name, or refused."""

from __future__ import annotations

from typing import Any

from ferrum_jax.models.families.bookkeeping import OFF, WITHOUT_EFFECT
from ferrum_jax.types import Activation, ConfigError, UnsupportedError

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "quick_gelu": Activation.QUICK_GELU,
    "relu": Activation.RELU,
    "relu2": Activation.RELU_SQUARED,
    "xielu": Activation.XIELU,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_python": Activation.GELU,
}
_REQUIRED = object()


class ConfigReader:
    """A `config.json` that remembers which of its keys were read."""

    def __init__(self, raw: dict[str, Any], where: str):
        self._raw = raw
        self._read: set[str] = set()
        self.where = where

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key; its default where the key is absent.

        Raises:
            ConfigError: the key is absent and has no default.
        """
        self._read.add(key)
        if key in self._raw:
            return self._raw[key]
        if default is _REQUIRED:
            raise ConfigError(f"{self.where} has no {key!r}, which this model type needs")
        return default

    def size(self, key: str, default: Any = _REQUIRED) -> int:
        """A positive integer."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{self.where}: {key} is {value!r}; it must be a positive integer")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A positive number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{self.where}: {key} is {value!r}; it must be a positive number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.get(key, None) is None else self.number(key)

    def optional_size(self, key: str) -> int | None:
        return None if self.get(key, None) is None else self.size(key)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key} is {value!r}; it must be true or false")
        return value

    def activation(self, key: str, default: str) -> Activation:
        name = self.get(key, default)
        if name not in ACTIVATIONS:
            raise UnsupportedError(
                f"{self.where}: {key} is {name!r}; known are {', '.join(sorted(ACTIVATIONS))}"
            )
        return ACTIVATIONS[name]

    def layer_types(
        self,
        count: int,
        default: list[str],
        known: tuple[str, ...] = ("full_attention", "sliding_attention"),
    ) -> list[str]:
        """`layer_types`: what each layer is; by default whether it slides a window or attends to
        everything."""
        kinds = self.get("layer_types", None) or default
        if not isinstance(kinds, list) or len(kinds) != count:
            raise ConfigError(
                f"{self.where}: layer_types is {kinds!r}; it must list {count} layers"
            )
        if unknown := sorted({str(kind) for kind in kinds} - set(known)):
            raise UnsupportedError(
                f"{self.where}: layer_types names {', '.join(unknown)}; "
                f"this model type has {' and '.join(known)}"
            )
        return kinds

    def index(self, key: str, default: Any = _REQUIRED) -> int:
        """An integer from 0."""
        value = self.get(key, default)
        return self._index(key, value)

    def indices(self, key: str) -> tuple[int, ...]:
        """A list of integers from 0; empty where the key is absent or null."""
        value = self.get(key, None) or []
        if not isinstance(value, list):
            raise ConfigError(f"{self.where}: {key} is {value!r}; it must be a list")
        return tuple(self._index(key, item) for item in value)

    def _index(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{self.where}: {key} has {value!r}; it must be an integer from 0")
        return value

    def ignore(self, *keys: str) -> None:
        """Mark keys that transformers itself does not use in this model's forward."""
        self._read.update(keys)

    def must_be_off(self, *keys: str) -> None:
        """Refuse options of the model type that this version does not run."""
        for key in keys:
            if value := self.get(key, None):
                raise UnsupportedError(
                    f"{self.where}: {key} = {value!r} is not supported; only checkpoints without "
                    "it can be run"
                )

    def must_be(self, key: str, *allowed: Any) -> Any:
        """The value of an option of which the code runs `allowed` alone; the first is the default.

        Raises:
            UnsupportedError: it is another.
        """
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise UnsupportedError(
                f"{self.where}: {key} = {value!r} is not supported; "
                f"only {' and '.join(map(repr, allowed))} can be run"
            )
        return value

    def finish(self) -> None:
        """Raise for every key that nobody read.

        Raises:
            UnsupportedError: the config of a model that is no decoder alone.
            ConfigError: unknown keys, all of them listed.
        """
        self.must_be_off(*OFF)
        unread = sorted(self._raw.keys() - self._read - WITHOUT_EFFECT)
        if unread:
            keys = ", ".join(f"{key} = {self._raw[key]!r}" for key in unread)
            raise ConfigError(
                f"{self.where}: unknown key(s) for model_type {self._raw.get('model_type')!r}: "
                f"{keys}. A key that is not understood may change the logits; remove it if it "
                "does not"
            )
