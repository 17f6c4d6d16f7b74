"""Activation statistics: moments against their definitions, the stream against the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research import edits
from ferrum_jax.research.reading import activation_statistics
from ferrum_jax.research.reading.moments import Moments
from ferrum_jax.research.reading.statistics import ValueStatistics
from tests.research.reading import reference

TEXTS = [reference.prompt(length, seed=length) for length in (70, 3, 41, 12, 1)]


def by_definition(x: np.ndarray, axis) -> dict[str, np.ndarray]:
    mean = x.mean(axis, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis)
    return {
        "mean": mean.squeeze(axis),
        "variance": variance,
        "rms": np.sqrt((x**2).mean(axis)),
        "absmax": np.abs(x).max(axis),
        "kurtosis": ((x - mean) ** 4).mean(axis) / variance**2,
        "fraction_zero": (x == 0).mean(axis),
    }


def check(found: ValueStatistics, x: np.ndarray, axis, **tolerance) -> None:
    for name, wanted in by_definition(np.asarray(x, np.float64), axis).items():
        np.testing.assert_allclose(getattr(found, name), wanted, err_msg=name, **tolerance)


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("sizes", [(500,), (1, 499), (100, 250, 150), (1,) * 500])
def test_moments_do_not_depend_on_chunks(sizes, mean):
    rng = np.random.default_rng(0)
    x = rng.gamma(0.7, size=(500, 2, 3)) * rng.integers(0, 2, (500, 2, 3)) + mean
    chunks = np.split(x, np.cumsum(sizes)[:-1])
    total = Moments.of(chunks[0])
    for chunk in chunks[1:]:
        total = total + Moments.of(chunk)
    check(ValueStatistics.of(total), x, 0, rtol=1e-8, atol=1e-10)
    check(ValueStatistics.of(total.pooled()), x, (0, 1, 2), rtol=1e-8, atol=1e-10)
    third = ((x - x.mean(0)) ** 3).sum(0)
    np.testing.assert_allclose(total.m3, third, rtol=1e-7)
    np.testing.assert_allclose(total.pooled().m3, ((x - x.mean()) ** 3).sum(), rtol=1e-7)


def test_a_constant_has_no_kurtosis():
    found = ValueStatistics.of(Moments.of(np.zeros((5, 2))))
    assert np.isnan(found.kurtosis).all()
    assert (found.fraction_zero == 1).all()


@pytest.fixture(scope="module")
def llm():
    return reference.make_llm("windowed")


@pytest.fixture(scope="module")
def found(llm):
    return activation_statistics(llm, iter(TEXTS), ("resid_post", "z"))


def test_a_corpus_equals_its_forwards(llm, found):
    runs = [reference.run(llm, ids) for ids in TEXTS]
    assert (found.texts, found.tokens) == (5, 127)
    site = found["resid_post"]
    assert site.layers == (0, 1)
    for i in site.layers:
        x = np.concatenate([run.resid_post[i] for run in runs])
        check(site.channels[i], x, 0, rtol=1e-3, atol=1e-4)
        layer = ValueStatistics(**{k: np.asarray(v[i]) for k, v in vars(site.per_layer).items()})
        check(layer, x, (0, 1), rtol=1e-4, atol=1e-4)
    assert found["z"].channels[1].rms.shape == (4, 8)
    with pytest.raises(fj.RequestError, match="site is 'q'; there are resid_post, z"):
        found["q"]


def test_layers_and_edits(llm):
    taps = edits.ablate_heads([(1, 3)])
    found = activation_statistics(llm, TEXTS, "z", layers=1, taps=taps)
    assert found["z"].layers == (1,)
    np.testing.assert_array_equal(found["z"].channels[1].fraction_zero[3], 1)
    assert (found["z"].channels[1].fraction_zero[:3] < 0.01).all()
    assert found["z"].per_layer.fraction_zero[0] == pytest.approx(0.25)


def test_outliers_are_found_and_named(llm, tmp_path):
    factor = np.ones(32, np.float32)
    factor[[9, 20]] = 100, 50
    taps = edits.custom("resid_post", jnp.multiply, factor, layers=1)
    found = activation_statistics(llm, TEXTS, ("resid_post", "q"), taps=taps)
    outliers = found["resid_post"].outliers()
    assert [(layer, channel) for layer, channel, _ in outliers] == [(1, (9,)), (1, (20,))]
    rms = found["resid_post"].channels[1].rms
    assert outliers[0][2] == pytest.approx(rms[9] / np.median(rms))
    assert "resid_post: 2 channels beyond 6 x the median RMS of their layer: channel 9 of" in repr(
        found
    )
    figure = found.plot(tmp_path / "statistics.png")
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == [
        "channels of resid_post",
        "channels of q",
    ]


def test_an_iterator_is_read_as_the_engine_gets_to_it(llm):
    class Stop(Exception):
        pass

    def endless():
        for _ in range(12):
            yield reference.prompt(12)
        raise Stop

    with pytest.raises(Stop):
        activation_statistics(llm, endless())
    assert activation_statistics(llm, TEXTS).tokens == 127


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"texts": []}, "there are no texts"),
        ({"texts": TEXTS, "sites": "pattern"}, "no fixed channels"),
        ({"texts": TEXTS, "sites": "residual"}, "'residual' is not a site"),
        ({"texts": TEXTS, "layers": 2}, "layer 2 does not exist"),
    ],
)
def test_wrong_arguments_say_so(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        activation_statistics(llm, **arguments)
