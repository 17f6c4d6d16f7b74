"""What a sweep varies: a config, edits, engine settings, a model, or several of these at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ferrum_jax.research.sweep.axes import BASELINE, Grid, Key, as_key, key_text
from ferrum_jax.research.sweep.describe import describe
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import ConfigError, EngineConfig, ModelConfig, RequestError, Taps


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to run the model; what is None stays as it is. `Variant()` is the baseline.

    Raises:
        RequestError: a part is of another type.
    """

    config: ModelConfig | None = None
    taps: Taps | None = None
    engine: EngineConfig | Mapping[str, Any] | None = None
    """Settings, or those fields that change."""
    llm: LLM | None = None
    """Another model; the other parts then change that one."""

    def __post_init__(self) -> None:
        for name, kinds in (
            ("config", ModelConfig),
            ("taps", Taps),
            ("engine", EngineConfig | Mapping),
            ("llm", LLM),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise RequestError(
                    f"Variant.{name} is {value!r} ({type(value).__name__}); give "
                    f"{getattr(kinds, '__name__', 'EngineConfig or a dict of its fields')}"
                )

    @property
    def is_baseline(self) -> bool:
        """Whether nothing changes."""
        return all(part is None for part in (self.config, self.taps, self.engine, self.llm))


@dataclass(frozen=True)
class Setting:
    """A model to run, as far as it decides what is compiled: variants with equal ones share it."""

    source: LLM
    config: ModelConfig
    engine: EngineConfig

    @property
    def is_source(self) -> bool:
        """Whether the source itself runs it."""
        same = self.engine == self.source.engine_config
        return same and self.config == self.source.config

    def make(self) -> LLM:
        """An LLM of its own, with the source's weights (not copied).

        Raises:
            ModelError: the weights do not fit the config.
        """
        return self.source.alike(self.config, self.source.params, self.engine)


def setting_of(variant: Variant, llm: LLM) -> Setting:
    """What a variant of `llm` runs.

    Raises:
        ConfigError, UnsupportedError: an engine field that there is not, or a value out of range.
    """
    source = variant.llm or llm
    engine = variant.engine
    if engine is None:
        engine = source.engine_config
    elif not isinstance(engine, EngineConfig):
        unknown = sorted(set(engine) - set(EngineConfig.__dataclass_fields__))
        if unknown:
            raise ConfigError(
                f"EngineConfig has no field {', '.join(map(repr, unknown))}; its fields are "
                f"{', '.join(EngineConfig.__dataclass_fields__)}"
            )
        engine = replace(source.engine_config, **engine)
    return Setting(source, variant.config or source.config, engine)


@dataclass(frozen=True, eq=False)
class NamedVariant:
    """A variant under its name."""

    key: Key
    variant: Variant


def named_variants(
    variants: Mapping[Any, Any] | Sequence[Any], llm: LLM
) -> tuple[list[NamedVariant], dict[str, Key]]:
    """The variants, the baseline first (added where there is none), and the axes of a grid.

    Raises:
        RequestError: there are none, something is no variant, or two have one name.
    """
    if isinstance(variants, Mapping):
        named = [NamedVariant(as_key(key), as_variant(v)) for key, v in variants.items()]
    elif isinstance(variants, Sequence) and not isinstance(variants, str):
        made = [as_variant(v) for v in variants]
        named = [NamedVariant((describe(v, llm),), v) for v in made]
    else:
        raise RequestError(f"variants is {variants!r}; give a mapping, a list or a grid")
    if not named:
        raise RequestError("there are no variants; give at least one")
    axes = dict(variants.axes) if isinstance(variants, Grid) else {}
    baseline = next((n for n in named if n.variant.is_baseline and not axes), None)
    if baseline is None:
        baseline = NamedVariant(BASELINE, Variant())
    ordered = [baseline, *(n for n in named if n is not baseline)]
    _check_unique([n.key for n in ordered])
    return ordered, axes


def as_variant(value: Any) -> Variant:
    """A `Variant` from whatever stands for one.

    Raises:
        RequestError: nothing that can be varied.
    """
    if value is None:
        return Variant()
    if isinstance(value, Variant):
        return value
    for name, kind in (
        ("config", ModelConfig),
        ("taps", Taps),
        ("engine", EngineConfig | Mapping),
        ("llm", LLM),
    ):
        if isinstance(value, kind):
            return Variant(**{name: value})
    raise RequestError(
        f"{value!r} ({type(value).__name__}) is no variant; give a ModelConfig "
        "(fj.edit_layers), Taps (fj.edits), an EngineConfig or a dict of its fields, an LLM, "
        "fj.Variant for several at once, or None for the baseline"
    )


def _check_unique(keys: list[Key]) -> None:
    seen: set[str] = set()
    for key in keys:
        text = key_text(key)
        if text in seen:
            raise RequestError(
                f"two variants are named {text!r}; give a mapping with a name for each"
            )
        seen.add(text)
