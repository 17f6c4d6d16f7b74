"""Every core type, defined once. No maths, no devices."""

from ferrum_jax.types.cache import TRASH_PAGE, BlockTable, KVCache, LayerCache
from ferrum_jax.types.device import DeviceInfo
from ferrum_jax.types.dtypes import DataType
from ferrum_jax.types.engine import EngineConfig, KVCacheConfig
from ferrum_jax.types.errors import (
    ConfigError,
    DeviceError,
    FerrumError,
    ModelError,
    RequestError,
    ResourceExhausted,
    SchedulerError,
    TokenizerError,
    UnsupportedError,
    WeightError,
)
from ferrum_jax.types.metrics import EngineMetrics, Percentiles
from ferrum_jax.types.model import (
    Activation,
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormKind,
    NormPlacement,
    RopeConfig,
    RopeKind,
    RopeScaling,
)
from ferrum_jax.types.output import (
    Completion,
    Logprob,
    Metrics,
    RequestOutput,
    Score,
    StreamDelta,
)
from ferrum_jax.types.request import FinishReason, Priority, Request, RequestState, Sequence
from ferrum_jax.types.sampling import SamplingParams
from ferrum_jax.types.schedule import Schedule, ScheduledChunk
from ferrum_jax.types.snapshot import Snapshot
from ferrum_jax.types.step import SamplingState, StepBatch, StepOutput, StepShape, TokenLogprobs
from ferrum_jax.types.taps import EVERYWHERE, SITES, Edit, Place, TapPlan, Taps

__all__ = [
    "EVERYWHERE",
    "SITES",
    "TRASH_PAGE",
    "Activation",
    "AttentionConfig",
    "BlockTable",
    "Completion",
    "ConfigError",
    "DataType",
    "DeviceError",
    "DeviceInfo",
    "Edit",
    "EngineConfig",
    "EngineMetrics",
    "FerrumError",
    "FinishReason",
    "KVCache",
    "KVCacheConfig",
    "LayerCache",
    "LayerSpec",
    "Logprob",
    "MLPConfig",
    "Metrics",
    "MoEConfig",
    "ModelConfig",
    "ModelError",
    "NormKind",
    "NormPlacement",
    "Percentiles",
    "Place",
    "Priority",
    "Request",
    "RequestError",
    "RequestOutput",
    "RequestState",
    "ResourceExhausted",
    "RopeConfig",
    "RopeKind",
    "RopeScaling",
    "SamplingParams",
    "SamplingState",
    "Schedule",
    "ScheduledChunk",
    "SchedulerError",
    "Score",
    "Sequence",
    "Snapshot",
    "StepBatch",
    "StepOutput",
    "StepShape",
    "StreamDelta",
    "TapPlan",
    "Taps",
    "TokenLogprobs",
    "TokenizerError",
    "UnsupportedError",
    "WeightError",
]
