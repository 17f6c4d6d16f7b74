"""The figures of a comparison, from tokens whose numbers are known."""

import math

import numpy as np
import pytest

from ferrum_jax.research.compare.bootstrap import Bootstrap
from ferrum_jax.research.compare.statistics import figures_of
from ferrum_jax.research.compare.tokens import TokenTable

P_A = np.asarray([0.5, 0.25, 0.125, 0.5])
P_B = np.asarray([0.25, 0.25, 0.25, 0.25])
KLD = np.asarray([0.1, 0.0, 0.3, 0.2])
DOCUMENT = np.asarray([0, 0, 0, 1])


def table(document, p_a, p_b, kld, top_b=None):
    count = len(document)
    top = np.zeros(count, np.int32)
    return TokenTable(
        document=np.asarray(document, np.int32),
        position=np.arange(1, count + 1, dtype=np.int32),
        token=top,
        nll_a=-np.log(np.asarray(p_a, np.float32)),
        nll_b=-np.log(np.asarray(p_b, np.float32)),
        kld=np.asarray(kld, np.float32),
        top_a=top,
        top_b=top if top_b is None else np.asarray(top_b, np.int32),
        p_top_a=np.asarray(p_a, np.float32),
        p_top_b=np.asarray(p_b, np.float32),
    )


def test_by_hand():
    """-log2 p is 1, 2, 3, 1 and 2, 2, 2, 2: means of 7/4 and 2 bits."""
    found = figures_of(table(DOCUMENT, P_A, P_B, KLD, [0, 0, 5, 0]), Bootstrap(2, 50))
    assert found.ppl_a.value == pytest.approx(2**1.75, rel=1e-6)
    assert found.ppl_b.value == pytest.approx(4, rel=1e-6)
    assert found.ln_ratio.value == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert found.ratio.value == pytest.approx(2**0.25, rel=1e-6)
    assert found.difference.value == pytest.approx(4 - 2**1.75, rel=1e-6)
    assert found.kld.value == pytest.approx(0.15, rel=1e-6)
    assert found.delta_p.value == pytest.approx((-0.25 + 0 + 0.125 - 0.25) / 4, rel=1e-6)
    assert found.delta_p_rms.value == pytest.approx(math.sqrt((0.125 + 1 / 64) / 4), rel=1e-6)
    assert found.same_top.value == 0.75
    assert found.kld_percentiles[100.0].value == pytest.approx(0.3, rel=1e-6)
    assert found.kld_percentiles[50.0].value == pytest.approx(0.15, rel=1e-6)
    assert found.delta_p_percentiles[0.0].value == pytest.approx(-0.25, rel=1e-6)
    assert found.delta_p_percentiles[100.0].value == pytest.approx(0.125, rel=1e-6)


def random_table(seed, documents=60):
    rng = np.random.default_rng(seed)
    document = np.sort(np.concatenate([np.arange(documents), rng.integers(0, documents, 900)]))
    shift = rng.normal(0, 0.5, documents)[document]
    log_a = -rng.gamma(2, 1, len(document)) + np.minimum(shift, 0)
    log_b = np.minimum(log_a + rng.normal(-0.1, 0.3, len(document)), 0)
    kld = rng.gamma(1, 0.1, len(document))
    return table(document, np.exp(log_a), np.exp(log_b), kld, rng.random(len(document)) < 0.2)


def test_correlation_is_that_over_tokens():
    tokens = random_table(0)
    found = figures_of(tokens, Bootstrap(60, 100)).correlation
    assert found.value == pytest.approx(np.corrcoef(tokens.nll_a, tokens.nll_b)[0, 1], rel=1e-6)
    assert 0 < found.error < 0.1


def test_errors_agree_with_linearised_ones():
    """Cochran 1977, section 6.4, on sums by document; those of exp propagated."""
    tokens = random_table(1)
    found = figures_of(tokens, Bootstrap(60, 4000))

    def error(values):
        counts = np.bincount(tokens.document)
        sums = np.bincount(tokens.document, values)
        off = (sums - values.mean() * counts) / counts.mean()
        return off.std(ddof=1) / math.sqrt(60)

    nll_a, nll_b = tokens.nll_a.astype(float), tokens.nll_b.astype(float)
    ppl_a, ppl_b = np.exp(nll_a.mean()), np.exp(nll_b.mean())
    expected = {
        "ppl_a": ppl_a * error(nll_a),
        "ppl_b": ppl_b * error(nll_b),
        "ln_ratio": error(nll_b - nll_a),
        "ratio": ppl_b / ppl_a * error(nll_b - nll_a),
        "difference": error(ppl_b * nll_b - ppl_a * nll_a),
        "kld": error(tokens.kld.astype(float)),
        "delta_p": error(tokens.delta_p),
        "delta_p_rms": error(tokens.delta_p**2) / (2 * np.sqrt(np.mean(tokens.delta_p**2))),
        "same_top": error(tokens.same_top.astype(float)),
    }
    for name, value in expected.items():
        assert getattr(found, name).error == pytest.approx(value, rel=0.07), name


def test_equal_sides_give_exact_figures():
    tokens = random_table(2)
    same = table(tokens.document, np.exp(-tokens.nll_a), np.exp(-tokens.nll_a), 0 * tokens.kld)
    found = figures_of(same, Bootstrap(60, 100))
    for name in ("ln_ratio", "difference", "kld", "delta_p", "delta_p_rms"):
        assert (getattr(found, name).value, getattr(found, name).error) == (0, 0), name
    for name in ("ratio", "same_top", "correlation"):
        assert (getattr(found, name).value, getattr(found, name).error) == (1, 0), name
    assert found.ppl_a == found.ppl_b


def test_one_document_has_values_and_no_errors():
    found = figures_of(table([0, 0, 0, 0], P_A, P_B, KLD), Bootstrap(1))
    assert found.kld.value == pytest.approx(0.15, rel=1e-6)
    assert math.isnan(found.kld.error)
    assert math.isnan(found.kld_percentiles[50.0].error)
