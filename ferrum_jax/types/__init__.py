"""Every core type, defined once. No maths, no devices."""

from ferrum_jax.types.adapters import Adapters, LowRank, side_by_side
from ferrum_jax.types.attention import (
    AttentionConfig,
    MLAConfig,
    QKNormOver,
    QueryTemperature,
    RopeConfig,
    RopeKind,
    RopeScaling,
)
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
from ferrum_jax.types.feedforward import (
    Activation,
    GroupScore,
    MLPConfig,
    MoEConfig,
    RouterKind,
)
from ferrum_jax.types.metrics import EngineMetrics, Percentiles
from ferrum_jax.types.model import LayerSpec, ModelConfig
from ferrum_jax.types.norms import NormKind, NormPlacement
from ferrum_jax.types.output import (
    Completion,
    Logprob,
    Metrics,
    RequestOutput,
    Score,
    StreamDelta,
)
from ferrum_jax.types.processors import ProcessorLane
from ferrum_jax.types.ragged import RaggedLayout, cut_runs, even_rows
from ferrum_jax.types.ranking import ChoiceScore, Ranking
from ferrum_jax.types.recurrent import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    Mamba2Config,
    MambaConfig,
    RecurrentConfig,
    ShortConvConfig,
)
from ferrum_jax.types.request import FinishReason, Priority, Request, RequestState, Sequence
from ferrum_jax.types.sampling import SamplingParams
from ferrum_jax.types.schedule import ChunkColumns, Schedule, ScheduledChunk
from ferrum_jax.types.snapshot import Snapshot
from ferrum_jax.types.speculation import Speculation
from ferrum_jax.types.step import SamplingState, StepBatch, StepOutput, StepShape, TokenLogprobs
from ferrum_jax.types.taps import EVERYWHERE, SITES, Edit, Place, TapPlan, Taps

__all__ = [
    "EVERYWHERE",
    "SITES",
    "TRASH_PAGE",
    "Activation",
    "Adapters",
    "AttentionConfig",
    "BlockTable",
    "ChoiceScore",
    "ChunkColumns",
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
    "GatedDeltaConfig",
    "GroupScore",
    "KDAConfig",
    "KVCache",
    "KVCacheConfig",
    "LayerCache",
    "LayerSpec",
    "LightningConfig",
    "Logprob",
    "LowRank",
    "MLAConfig",
    "MLPConfig",
    "Mamba2Config",
    "MambaConfig",
    "Metrics",
    "MoEConfig",
    "ModelConfig",
    "ModelError",
    "NormKind",
    "NormPlacement",
    "Percentiles",
    "Place",
    "Priority",
    "ProcessorLane",
    "QKNormOver",
    "QueryTemperature",
    "RaggedLayout",
    "Ranking",
    "RecurrentConfig",
    "Request",
    "RequestError",
    "RequestOutput",
    "RequestState",
    "ResourceExhausted",
    "RopeConfig",
    "RopeKind",
    "RopeScaling",
    "RouterKind",
    "SamplingParams",
    "SamplingState",
    "Schedule",
    "ScheduledChunk",
    "SchedulerError",
    "Score",
    "Sequence",
    "ShortConvConfig",
    "Snapshot",
    "Speculation",
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
    "cut_runs",
    "even_rows",
    "side_by_side",
]
