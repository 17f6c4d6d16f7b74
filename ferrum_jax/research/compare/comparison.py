"""`Comparison`: what `compare` found, as figures with errors, text, JSON and a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

from ferrum_jax.research.compare.bootstrap import Estimate
from ferrum_jax.research.compare.curves import Curves, Histogram, Profile
from ferrum_jax.research.compare.parting import Parting
from ferrum_jax.research.compare.statistics import Figures
from ferrum_jax.research.compare.tokens import TokenTable
from ferrum_jax.research.compare.worst import DifferingToken
from ferrum_jax.runtime.record import read_record, to_json, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "ferrum_jax comparison 1"


@dataclass(frozen=True)
class Comparison(Figures):
    """How `b` differs from the reference `a`, over the same tokens. `print(comparison)` shows it.

    Errors are standard errors over documents, by the bootstrap; nan where there is one document.
    """

    names: tuple[str, str]
    num_documents: int
    num_tokens: int
    """Tokens that were scored."""
    min_context: int
    """How many tokens stood before each of them, at least."""
    kld_is_bound: bool
    """Whether a side holds its likeliest ids only, so that the KLD is a lower bound."""
    resamples: int
    seed: int
    settings: tuple[dict[str, Any], dict[str, Any]] = field(repr=False)
    """Each side: config, engine, dtype, edits, digest of the weights."""
    differences: tuple[str, ...]
    """Settings in which the sides differ."""
    worst: tuple[DifferingToken, ...] = field(repr=False)
    """The tokens of the largest KLD."""
    parting: Parting | None = field(repr=False)
    """Where in the network the two first part; None: `parting_note` says why."""
    parting_note: str = field(repr=False)
    curves: Curves = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    """Versions, device, machine, command and commit."""
    tokens: TokenTable | None = field(default=None, repr=False, compare=False)
    """The numbers of every token; not in the file, and so None after `load`."""

    def to_text(self) -> str:
        """The report for a terminal."""
        from ferrum_jax.research.compare.text import as_text

        return as_text(self)

    def to_markdown(self) -> str:
        """The report in Markdown."""
        from ferrum_jax.research.compare.text import as_markdown

        return as_markdown(self)

    def plain(self) -> dict[str, Any]:
        """Everything but the numbers of every token, as plain data."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tokens"}
        return {"format": FORMAT, **kept}

    def to_json(self) -> str:
        """Strict JSON; nan and infinity are null."""
        return to_json(self.plain())

    def save(self, path: str | PathLike[str]) -> None:
        """Write the JSON, atomically.

        Raises:
            OSError: the folder is missing or cannot be written.
        """
        write_json(path, self.plain())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """A comparison from its file.

        Raises:
            RequestError: the file holds something else.
            OSError: it cannot be read.
        """
        return read_record(
            path,
            FORMAT,
            lambda found: cls(**_revived(found)),
            "holds no comparison {}; name a file that Comparison.save wrote",
        )

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """KLD and delta-p as distributions, KLD by position, and where the two part.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.compare.plot import plot_comparison

        return plot_comparison(self, path)

    def __str__(self) -> str:
        return self.to_text()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def _revived(found: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `Comparison` from its JSON, in which nan is null."""
    given = {f.name: found[f.name] for f in fields(Comparison) if f.name != "tokens"}
    for f in fields(Figures):
        value = given[f.name]
        given[f.name] = (
            {float(k): _estimate(v) for k, v in value.items()}
            if f.name.endswith("percentiles")
            else _estimate(value)
        )
    curves, parting = given["curves"], given["parting"]
    return given | {
        "names": tuple(given["names"]),
        "settings": tuple(given["settings"]),
        "differences": tuple(given["differences"]),
        "worst": tuple(DifferingToken(**_numbers(token)) for token in given["worst"]),
        "parting": None if parting is None else Parting(**_numbers(parting)),
        "curves": Curves(
            kld=Histogram(**_numbers(curves["kld"])),
            delta_p=Histogram(**_numbers(curves["delta_p"])),
            kld_by_position=Profile(**_numbers(curves["kld_by_position"])),
        ),
    }


def _estimate(found: dict[str, Any]) -> Estimate:
    return Estimate(**_numbers(found))


def _numbers(found: Any) -> Any:
    """Null as nan and lists as tuples, however deep."""
    if isinstance(found, dict):
        return {key: _numbers(value) for key, value in found.items()}
    if isinstance(found, list):
        return tuple(map(_numbers, found))
    return math.nan if found is None else found
