"""Attribution patching against activation patching, where the metric is nearly linear."""

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.gradients import attribution_patching
from tests.research.gradients.models import CONFIG, ENGINE, PROMPT, make_params, metric, random

CORRUPT = [3, 14, 33, 9, 26, 5]
SIZE = 1e-2


@pytest.fixture(scope="module")
def near():
    """A model in which the corrupt token is nearly the clean one."""
    params = make_params()
    embed = params.embed.at[33].set(params.embed[15] + SIZE * random(16))
    return fj.LLM(CONFIG, params.replace(embed=embed), engine=ENGINE)


@pytest.fixture(scope="module")
def found(near):
    return attribution_patching(near, PROMPT, CORRUPT, metric, ("z", "mlp_out", "mlp_post"))


def test_effects_are_those_of_true_patching(near, found):
    captured = near.capture([CORRUPT], sites=("z", "mlp_out"))[0]
    base = metric(near.logits(PROMPT).astype(np.float64))
    true = {"z": np.zeros((2, 6, 4)), "mlp_out": np.zeros((2, 6))}
    for at in np.ndindex(2, 6, 4):
        layer, token, head = at
        values = captured["z"][layer][[token]]
        taps = fj.edits.patch(values, layer, [token], "z", heads=[head])
        true["z"][at] = metric(near.logits(PROMPT, taps=taps).astype(np.float64)) - base
    for layer, token in np.ndindex(2, 6):
        values = captured["mlp_out"][layer][[token]]
        taps = fj.edits.patch(values, layer, [token], "mlp_out")
        true["mlp_out"][layer, token] = metric(near.logits(PROMPT, taps=taps)) - base
    for site, values in true.items():
        largest = np.abs(values).max()
        assert largest > 20 * 2e-6, site
        np.testing.assert_allclose(found.effects[site], values, atol=0.03 * largest + 2e-6)


def test_only_tokens_from_the_changed_one_on_have_effects(found):
    for site in ("z", "mlp_out"):
        effects = found.effects[site]
        np.testing.assert_allclose(effects[:, :2], 0, atol=1e-7)
        assert np.abs(effects[:, 2:]).max() > 1e-5


def test_the_sums_and_what_is_absent(found):
    z = found.effects["z"]
    np.testing.assert_allclose(found.by_head("z"), z.sum(axis=1), atol=1e-7)
    np.testing.assert_allclose(found.by_token("z"), z.sum(axis=2), atol=1e-7)
    np.testing.assert_array_equal(found.by_token("mlp_out"), found.effects["mlp_out"])
    assert found.layers == (0, 1)
    assert not np.isnan(found.effects["mlp_post"][0]).any()
    assert np.isnan(found.effects["mlp_post"][1]).all()  # its MLP is one of experts
    with pytest.raises(fj.RequestError, match="'mlp_out' is no site with heads"):
        found.by_head("mlp_out")
    with pytest.raises(fj.RequestError, match="'q' was not asked for"):
        found.by_token("q")


def test_the_metrics_of_both_runs_are_kept(near, found):
    np.testing.assert_allclose(found.clean_metric, metric(near.logits(PROMPT)), atol=1e-5)
    np.testing.assert_allclose(found.corrupt_metric, metric(near.logits(CORRUPT)), atol=1e-5)
    assert "head" in repr(found)


def test_the_same_prompt_twice_has_no_effect(near):
    same = attribution_patching(near, PROMPT, PROMPT, metric, "resid_post", layers=1)
    assert same.layers == (1,)
    np.testing.assert_array_equal(same.effects["resid_post"], 0)


def test_the_plot_has_a_panel_for_each_view(found, tmp_path):
    figure = found.plot(tmp_path / "effects.png")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    wanted = ["z, summed over heads", "z, summed over tokens", "mlp_out", "mlp_post"]
    assert [title for title in titles if title] == wanted
    assert (tmp_path / "effects.png").stat().st_size > 1000


def test_prompts_of_other_lengths_are_refused(near):
    with pytest.raises(fj.RequestError, match="6 tokens and the corrupt one 5"):
        attribution_patching(near, PROMPT, CORRUPT[:5], metric)
