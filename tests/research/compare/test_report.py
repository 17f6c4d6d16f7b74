"""What a comparison shows and keeps: text, Markdown, JSON, a figure."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.compare import Comparison, Estimate, compare
from ferrum_jax.research.compare.curves import Histogram
from ferrum_jax.research.compare.worst import DifferingToken

STATISTICS = (
    "PPL(a)", "PPL(new)", "ln PPL(new)/PPL(a)", "PPL(new)/PPL(a)", "PPL(new) - PPL(a)",
    "correlation of ln PPL [%]", "mean KL(a || new) [nats]",
    "mean Δp, p(new) - p(a) of the token [%]", "RMS Δp [%]", "same top token [%]",
)  # fmt: skip
TOKEN = DifferingToken(2, 7, "x = [\n", "a|b", 0.25, 0.5, 0.125, "`", 0.75, "▁the", 0.5)


@pytest.fixture(scope="module")
def report(llm, other, documents):
    return compare(llm, other, documents, names=("a", "new"), resamples=30, command="run me")


@pytest.fixture(scope="module")
def single(llm, other, documents):
    return compare(llm, other, documents[:1], parting=False)


def row(text, name):
    """The cells behind a name in the text."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name}  ")]
    return line.strip().removeprefix(name).strip()


def test_the_text_holds_every_statistic_with_its_error(report):
    text = report.to_text()
    assert text == str(report)
    assert text.startswith("new against a: 4 documents, 61 tokens scored\n")
    for name in STATISTICS:
        assert " ± " in row(text, name), name
    assert row(text, "PPL(a)") == str(report.ppl_a)
    assert row(text, "same top token [%]").startswith(f"{100 * report.same_top.value:.0f}")
    assert "bootstrap resamples (seed 0)" in text
    assert "30 bootstrap" in text
    assert max(map(len, text.splitlines())) < 170


def test_percentiles_fall_and_extremes_have_no_error(report):
    lines = report.to_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("  percentile"))
    rows = [line.split() for line in lines[first + 1 : first + 14]]
    assert [r[0] for r in rows][::6] == ["max", "median", "min"]
    values = [float(r[2 if r[1] == "%" else 1]) for r in rows]
    assert values == sorted(values, reverse=True)
    assert "±" not in rows[0]
    assert "±" in rows[6]


def test_one_document_is_said_to_have_no_errors(single):
    text = single.to_text()
    assert "no errors: there is one document" in text
    assert " ± " not in text.replace("value ± error", "")
    assert math.isnan(single.kld.error)


def test_what_was_not_measured_is_said(single, report):
    assert "where they part was not measured: parting=False" in single.to_text()
    assert "Where they part" in report.to_text()
    assert f"{report.parting.threshold:.1e}: layer 0, resid_pre" in report.to_text()


def test_tokens_are_shown_on_one_line(report):
    shown = replace(report, worst=(TOKEN,))
    (line,) = [line for line in shown.to_text().splitlines() if "2:7" in line]
    assert line.split() == [
        "2:7", "0.25", "x", "=", "[\\n", "a|b", "0.500", "0.125", "`", "0.750", "▁the", "0.500"
    ]  # fmt: skip
    (line,) = [line for line in shown.to_markdown().splitlines() if "2:7" in line]
    assert line == (
        r"| 2:7 | 0.25 | `x = [\n` | `a\|b` | 0.500 | 0.125 | `` ` `` 0.750 | `▁the` 0.500 |"
    )


def test_markdown_has_tables(report):
    text = report._repr_markdown_()
    assert "| value ± error |" in text
    assert f"| PPL(a) | {report.ppl_a} |" in text
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if "PPL(" in line}
    assert widths == {3}


def test_a_lower_bound_is_called_one(report):
    text = replace(report, kld_is_bound=True).to_text()
    assert "mean KL(a || new) [nats], a lower bound" in text
    assert "one bucket for all others" in text
    assert "bound" not in report.to_text()


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(6.8512e-5, 2.5e-6), "6.85e-05 ± 2.5e-06"),
        (Estimate(2.0, 0.5), "2.00e+00 ± 5.0e-01"),
        (Estimate(1e-6, 3e-5), "1e-06 ± 3.0e-05"),
        (Estimate(0.25, math.nan), "2.50e-01"),
        (Estimate(0.0, 0.0), "0"),
        (Estimate(math.inf, math.nan), "inf"),
    ],
)
def test_divergences_are_shown_in_powers_of_ten(report, estimate, shown):
    assert row(replace(report, kld=estimate).to_text(), "mean KL(a || new) [nats]") == shown


def test_a_file_gives_the_same_comparison_back(tmp_path, report, single):
    for i, found in enumerate((report, single)):
        path = tmp_path / f"{i}.json"
        found.save(path)
        back = Comparison.load(path)
        assert back.to_json() == found.to_json()
        assert back.to_text() == found.to_text()
        assert back.tokens is None


def test_the_file_is_a_record(tmp_path, report):
    report.save(tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["record"]["command"] == "run me"
    assert {"versions", "device", "commit"} <= set(found["record"])
    assert (found["seed"], found["resamples"]) == (0, 30)
    a, b = found["settings"]
    assert len(a["weights"]) == 64
    assert a["weights"] != b["weights"]
    assert a["config"]["vocab_size"] == 600
    assert a["engine"]["max_num_batched_tokens"] == 16
    assert found["kld"] == {"value": report.kld.value, "error": report.kld.error}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "ferrum_jax comparison 1"}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(fj.RequestError, match=r"x\.json holds no comparison .*Comparison\.save"):
        Comparison.load(path)


def test_curves_count_every_token(report):
    tokens, curves = report.tokens, report.curves
    assert sum(curves.kld.counts) + curves.kld.outside == len(tokens)
    assert curves.kld.edges[0] == pytest.approx(tokens.kld.min(), rel=1e-6)
    assert curves.kld.edges[-1] == pytest.approx(tokens.kld.max(), rel=1e-6)
    assert sum(curves.delta_p.counts) == len(tokens)
    rises = np.asarray(curves.delta_p.edges[:-1]) > 0
    risen = int(np.asarray(curves.delta_p.counts)[rises].sum())
    assert risen == (tokens.delta_p > min(e for e in curves.delta_p.edges if e > 0)).sum()


def test_the_profile_is_the_mean_by_position(report):
    tokens, profile = report.tokens, report.curves.kld_by_position
    assert (profile.edges[0], profile.edges[-1]) == (1, 31)
    bins = zip(profile.edges[:-1], profile.edges[1:], profile.means, profile.errors, strict=True)
    for low, high, mean, error in bins:
        inside = (tokens.position >= low) & (tokens.position < high)
        assert mean == pytest.approx(tokens.kld[inside].mean(), rel=1e-5)
        assert math.isnan(error) == (len(set(tokens.document[inside].tolist())) < 2)


def test_the_figure_has_four_panels(tmp_path, report, single):
    figure = report.plot(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "KL divergence per token"
    assert titles[1] == "Change of the true token's probability"
    assert titles[2] == "KL divergence by position"
    assert titles[3].startswith("They part at layer 0, resid_pre")
    texts = [text.get_text() for ax in single.plot().axes for text in ax.texts]
    assert texts == ["not measured:\nparting=False"]


def test_a_figure_of_no_difference_says_so(report):
    nothing = Histogram((), (), 61)
    curves = replace(
        report.curves,
        kld=nothing,
        delta_p=nothing,
        kld_by_position=replace(report.curves.kld_by_position, means=(0.0,) * 15),
    )
    figure = replace(report, curves=curves, parting=None).plot()
    texts = [ax.texts[0].get_text() for ax in figure.axes[:3]]
    assert texts == ["every KLD is 0", "no probability differs", "every KLD is 0"]
