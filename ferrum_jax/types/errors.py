"""The one error family: everything that a user can cause is a `FerrumError`.

A message names the value that was refused, the limit it broke and the remedy.
"""

from __future__ import annotations


class FerrumError(Exception):
    """The base of every error that ferrum_jax raises on purpose."""


class ConfigError(FerrumError, ValueError):
    """An `EngineConfig`, a `config.json` or an edit of a config is wrong."""


class ModelError(FerrumError):
    """A model cannot be built or run as asked: a site never reached, parameters that misfit."""


class WeightError(FerrumError):
    """A checkpoint's tensors are damaged, missing, unread or of the wrong shape."""


class TokenizerError(FerrumError):
    """A tokenizer file is missing or damaged, or a chat template is refused."""


class RequestError(FerrumError, ValueError):
    """A prompt or a `SamplingParams` is wrong; other requests are not affected."""


class ResourceExhausted(FerrumError):
    """Memory, pages or slots do not suffice for what was asked."""


class SchedulerError(FerrumError):
    """A precondition of the scheduler or the block manager was broken."""


class DeviceError(FerrumError):
    """A device is missing, or failed while running a step."""


class UnsupportedError(FerrumError):
    """The request is meaningful, but this version does not do it."""
