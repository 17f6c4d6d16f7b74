"""A comparison as text: figures with as many digits as their errors leave them, and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ferrum_jax.research.compare.bootstrap import Estimate
from ferrum_jax.research.compare.parting import Parting
from ferrum_jax.research.compare.settings import headline
from ferrum_jax.research.tables import aligned, piped, with_error

if TYPE_CHECKING:
    from ferrum_jax.research.compare.comparison import Comparison

CONTEXT_LETTERS = 40
TOKEN_LETTERS = 16
RANGE_NAMES = {0.0: "min", 50.0: "median", 100.0: "max"}
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

Quote = Callable[[str], str]


@dataclass(frozen=True)
class _Section:
    title: str
    cells: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def as_text(report: Comparison) -> str:
    """See `Comparison.to_text`."""
    lines = [_title(report), "", *_sides(report)]
    for section in _sections(report, str):
        lines += ["", section.title, *(f"  {row}" for row in aligned(section.cells))]
        lines += [f"  {note}" for note in section.notes]
    return "\n".join([*lines, "", *_tail(report)])


def as_markdown(report: Comparison) -> str:
    """See `Comparison.to_markdown`."""
    lines = [f"**{_title(report)}**", "", *(f"- {line}" for line in _sides(report))]
    for section in _sections(report, _code):
        lines += ["", f"**{section.title}**", "", *piped(section.cells)]
        if section.notes:
            lines += ["", "  \n".join(section.notes)]
    return "\n".join([*lines, "", "  \n".join(_tail(report))])


def _title(report: Comparison) -> str:
    a, b = report.names
    documents = f"{report.num_documents:,} document{'' if report.num_documents == 1 else 's'}"
    return f"{b} against {a}: {documents}, {report.num_tokens:,} tokens scored"


def _sides(report: Comparison) -> list[str]:
    """What each side is, and in what they differ."""
    pairs = zip(report.names, report.settings, strict=True)
    lines = [f"{name}: {headline(settings)}" for name, settings in pairs]
    if all(settings["kind"] == "model" for settings in report.settings):
        lines.append(f"what differs: {'; '.join(report.differences) or 'nothing'}")
    return lines


def _sections(report: Comparison, quote: Quote) -> Iterator[_Section]:
    yield _perplexity(report)
    yield _distributions(report)
    yield _spread(report)
    if report.worst:
        yield _worst(report, quote)
    if report.parting is not None:
        yield _parting(report.parting)


def _perplexity(report: Comparison) -> _Section:
    a, b = report.names
    cells = [
        ["", "value ± error"],
        [f"PPL({a})", str(report.ppl_a)],
        [f"PPL({b})", str(report.ppl_b)],
        [f"ln PPL({b})/PPL({a})", _signed(report.ln_ratio)],
        [f"PPL({b})/PPL({a})", str(report.ratio)],
        [f"PPL({b}) - PPL({a})", _signed(report.difference)],
        ["correlation of ln PPL [%]", str(_percent(report.correlation))],
    ]
    return _Section("Perplexity", cells)


def _distributions(report: Comparison) -> _Section:
    a, b = report.names
    bound = ", a lower bound" if report.kld_is_bound else ""
    cells = [
        ["", "value ± error"],
        [f"mean KL({a} || {b}) [nats]{bound}", _scientific(report.kld)],
        [f"mean Δp, p({b}) - p({a}) of the token [%]", _signed(_percent(report.delta_p))],
        ["RMS Δp [%]", str(_percent(report.delta_p_rms))],
        ["same top token [%]", str(_percent(report.same_top))],
    ]
    notes = []
    if report.kld_is_bound:
        notes = ["KLD over the ids that the file keeps and one bucket for all others"]
    return _Section("Distributions", cells, notes)


def _spread(report: Comparison) -> _Section:
    """Percentiles over tokens, the largest first."""
    rows = [
        [
            RANGE_NAMES.get(percent, f"{percent:g} %"),
            _scientific(report.kld_percentiles[percent]),
            _signed(_percent(report.delta_p_percentiles[percent])),
        ]
        for percent in sorted(report.kld_percentiles, reverse=True)
    ]
    notes = ["min and max have no error: resamples never leave the sample's range"]
    head = ["percentile", "KLD [nats]", "Δp [%]"]
    return _Section("Percentiles over tokens", [head, *rows], notes)


def _worst(report: Comparison, quote: Quote) -> _Section:
    a, b = report.names
    head = ["doc:pos", "KLD", "context", "token", f"p({a})", f"p({b})", f"{a} says", f"{b} says"]
    rows = [
        [
            f"{found.document}:{found.position}",
            f"{found.kld:.3g}",
            quote(_visible(found.context)[-CONTEXT_LETTERS:]),
            quote(_visible(found.token, TOKEN_LETTERS)),
            f"{found.p_a:.3f}",
            f"{found.p_b:.3f}",
            f"{quote(_visible(found.top_a, TOKEN_LETTERS))} {found.p_top_a:.3f}",
            f"{quote(_visible(found.top_b, TOKEN_LETTERS))} {found.p_top_b:.3f}",
        ]
        for found in report.worst
    ]
    return _Section("Tokens that differ most", [head, *rows])


def _parting(parting: Parting) -> _Section:
    rows = [
        [str(layer), *(f"{error:.1e}" if error == error else "-" for error in errors)]
        for layer, errors in enumerate(zip(*parting.errors, strict=True))
    ]
    where = "nowhere" if parting.first is None else f"layer {parting.first[0]}, {parting.first[1]}"
    notes = [
        f"relative error of activations over {parting.tokens} tokens; first above "
        f"{parting.threshold:.1e}: {where}"
    ]
    return _Section("Where they part", [["layer", *parting.sites], *rows], notes)


def _tail(report: Comparison) -> list[str]:
    """What the errors are, what was not measured, and which versions and machine it was."""
    if report.num_documents == 1:
        lines = ["no errors: there is one document, and errors come from differences between them"]
    else:
        lines = [
            "± standard error over documents, by "
            f"{report.resamples:,} bootstrap resamples (seed {report.seed})"
        ]
    if report.min_context > 1:
        lines.append(f"scored are tokens with at least {report.min_context} tokens before them")
    for name, settings in zip(report.names, report.settings, strict=True):
        if settings["kind"] == "saved" and settings["dtype"] == "float16":
            lines.append(f"{name} was stored as float16, whose rounding gives KLDs of up to 1e-6")
    if report.parting is None:
        lines.append(f"where they part was not measured: {report.parting_note}")
    versions = report.record["versions"]
    facts = [f"{name} {versions[name]}" for name in ("ferrum_jax", "jax")]
    return [*lines, ", ".join([*facts, report.record["device"]["kind"]])]


def _percent(estimate: Estimate) -> Estimate:
    return Estimate(100 * estimate.value, 100 * estimate.error)


def _signed(estimate: Estimate) -> str:
    return with_error(estimate.value, estimate.error, "+")


def _scientific(estimate: Estimate) -> str:
    """`6.85e-05 ± 2.5e-06`: a KLD spans many orders of magnitude."""
    value, error = estimate.value, estimate.error
    if not value or not math.isfinite(value):
        return f"{value:g}"
    if not error or not math.isfinite(error):
        return f"{value:.2e}"
    digits = 1 + math.floor(math.log10(value)) - math.floor(math.log10(error))
    return f"{value:.{max(0, digits)}e} ± {error:.1e}"


def _visible(text: str, longest: int | None = None) -> str:
    """A text on one line, its end cut off if it is long."""
    shown = "".join(
        ESCAPES.get(c, c if c.isprintable() else "\N{REPLACEMENT CHARACTER}") for c in text
    )
    if longest is None or len(shown) <= longest:
        return shown
    return shown[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _code(text: str) -> str:
    """A Markdown code span, which leaves every character as it is."""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"
