"""What the figures of sweeps show."""

import builtins

import numpy as np
import pytest

import ferrum_jax as fj
from tests.research.sweep.tables import make_table

AXES = {"layer": (0, 1), "head": (0, 1, 2)}
GRID = [
    ("baseline", [2.0, 4.0]),
    ((0, 0), [2.0, 4.1]),
    ((0, 1), [3.0, 5.0]),
    ((0, 2), [1.0, 3.1]),
    ((1, 0), None),
    ((1, 1), [2.0, 4.0]),
    ((1, 2), [2.5, 4.4]),
]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_bars_stand_for_differences_with_their_errors(tmp_path):
    table = make_table([("base", [2.0, 4.0]), ("a", [3.0, 7.0]), ("b", [1.0, 3.0]), ("c", None)])
    path = tmp_path / "bars.png"
    figure = table.plot(path)
    (ax,) = figure.axes
    widths = [bar.get_width() for bar in ax.patches]
    assert widths[:2] == [2.0, -1.0]
    assert np.isnan(widths[2])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert texts(ax) == ["+2.0 ± 1.0", "-1", "failed"]
    assert ax.get_xlabel() == "change of nll [nats/token] from base"
    low, high = ax.get_ylim()
    assert low > high  # the first on top
    assert path.stat().st_size > 5_000


def test_two_axes_make_a_heat_map_centred_at_no_change():
    figure = make_table(GRID, axes=AXES).plot()
    ax, bar = figure.axes
    (image,) = ax.images
    values = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(values, [[0.05, 1.0, -0.95], [np.nan, 0.0, 0.45]], atol=1e-12)
    low, high = image.get_clim()
    assert low == -high
    assert high == 1.0
    # The first cell's error is 0.05: one error is not sure.
    assert texts(ax) == ["+1.00", "-0.95", "+0.45", "failed"]
    assert ax.get_ylabel() == "layer"
    assert ax.get_xlabel() == "head"
    assert bar.get_ylabel() == "change of nll [nats/token] from baseline"


def test_one_cell_that_stands_out_leaves_the_others_their_colours():
    rows = [("baseline", [2.0, 4.0])]
    rows += [((y, x), [2.1, 4.0 + 0.1 * x]) for y in range(5) for x in range(5)]
    rows[1] = ((0, 0), [12.0, 14.0])
    axes = {"layer": tuple(range(5)), "head": tuple(range(5))}
    ax, _ = make_table(rows, axes=axes).plot().axes
    assert ax.images[0].get_clim()[1] < 1.0
    assert texts(ax)[0] == "+10.00"


def test_small_changes_are_written_as_powers_of_ten():
    rows = [("baseline", [2.0, 4.0]), ((0, 0), [2.00003, 4.00003]), ((0, 1), [1.99999, 3.99999])]
    axes = {"layer": (0,), "head": (0, 1)}
    ax, _ = make_table(rows, axes=axes).plot().axes
    assert texts(ax) == ["+3e-05", "-1e-05"]


def test_many_columns_have_colours_without_numbers():
    axes = {"layer": (0, 1), "head": tuple(range(40))}
    rows = [("baseline", [2.0, 4.0])]
    rows += [((y, x), [2.0, 4.0 + x]) for y in range(2) for x in range(40)]
    figure = make_table(rows, axes=axes).plot()
    assert texts(figure.axes[0]) == []
    assert figure.get_figwidth() < 15


def test_nothing_to_draw_is_refused():
    with pytest.raises(fj.RequestError, match="nothing to draw"):
        make_table([("baseline", [2.0, 4.0]), ("a", None)]).plot()


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(fj.UnsupportedError, match="pip install matplotlib"):
        make_table(GRID, axes=AXES).plot()
