"""Induction scores: heads that were built by hand score what they must."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research import edits
from ferrum_jax.research.reading import induction, induction_scores
from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, RopeConfig

VOCAB, HEAD, LENGTH = 24, 32, 10
SHARP = 40.0


def built_by_hand() -> fj.LLM:
    """Two layers of attention alone, over the width [token | 1 | previous token].

    Head 0.0 looks one token back, by its rope, and writes what it finds into `previous token`.
    Head 1.0 looks for its own token among the previous tokens: the induction head. Head 1.1 looks
    for its own token among the tokens. Head 0.1 has no queries, so that it looks at all equally.
    """
    width = 2 * VOCAB + 1
    first = AttentionConfig(2, 2, HEAD, scale=1.0, rope=RopeConfig())
    config = ModelConfig(
        model_type="llama",
        vocab_size=VOCAB,
        hidden_size=width,
        layers=tuple(
            LayerSpec(attention, MLPConfig(4)) for attention in (first, replace(first, rope=None))
        ),
        max_positions=128,
    )
    params = init_params(config)
    token, one, previous = np.eye(VOCAB, width), np.eye(width)[VOCAB], np.eye(width)[VOCAB + 1 :]
    qkv, o = np.zeros((2, width, 2, 3, HEAD)), np.zeros((2, 2, HEAD, width))
    query, key, value = 0, 1, 2
    frequencies = 10_000.0 ** (-np.arange(HEAD // 2) / (HEAD // 2))
    qkv[0, :, 0, query] = np.outer(one, SHARP**0.5 * one_back(frequencies))
    qkv[0, :, 0, key] = np.outer(one, SHARP**0.5 * np.repeat([1.0, 0.0], HEAD // 2))
    qkv[0, :, 0, value, :VOCAB] = token.T
    o[0, 0, :VOCAB] = previous
    for head, read in enumerate((previous, token)):
        qkv[1, :, head, query, :VOCAB] = SHARP**0.5 * token.T
        qkv[1, :, head, key, :VOCAB] = SHARP**0.5 * read.T
    layers = tuple(
        layer.replace(
            attention=layer.attention.replace(
                qkv=jnp.asarray(qkv[i], jnp.float32), o=jnp.asarray(o[i], jnp.float32)
            ),
            mlp=layer.mlp.replace(down=jnp.zeros_like(layer.mlp.down)),
        )
        for i, layer in enumerate(params.layers)
    )
    embed = jnp.asarray(token + one, jnp.float32)
    return fj.LLM(config, params.replace(embed=embed, layers=layers))


def one_back(frequencies: np.ndarray) -> np.ndarray:
    """A query whose product with keys of ones is largest one token back: sum of cos(f (d - 1))."""
    return np.concatenate([np.cos(frequencies), -np.sin(frequencies)])


@pytest.fixture(scope="module")
def llm():
    return built_by_hand()


@pytest.fixture(scope="module")
def found(llm):
    return induction_scores(llm, length=LENGTH, count=4)


def test_each_head_scores_what_it_was_built_for(found):
    assert found.previous_token[0, 0] > 0.99
    # The first token has none before it and finds itself, so that its copy has two keys to choose.
    assert found.induction[1, 0] == pytest.approx(1 - 0.5 / LENGTH, abs=1e-3)
    assert found.duplicate_token[1, 0] == pytest.approx(0.5 / LENGTH, abs=1e-3)
    assert found.duplicate_token[1, 1] == pytest.approx(0.5, abs=1e-3)  # half is on itself
    assert found.induction[0, 0] < 0.01
    assert found.induction[1, 1] < 0.01
    assert found.previous_token[1].max() < 0.2
    assert found.heads() == [(1, 0)]
    assert found.heads("previous_token", above=0.9) == [(0, 0)]


@pytest.mark.parametrize("repeats", [2, 3])
def test_a_head_that_looks_everywhere_scores_what_chance_gives(llm, repeats):
    """Query t spreads 1 / (t + 1) on each key; in copy c there are c keys that count."""
    found = induction_scores(llm, length=LENGTH, repeats=repeats, count=2)
    t = np.arange(LENGTH * repeats)
    chance = (t // LENGTH / (t + 1))[LENGTH:].mean()
    assert found.induction[0, 1] == pytest.approx(chance, abs=1e-6)
    assert found.duplicate_token[0, 1] == pytest.approx(chance, abs=1e-6)
    assert found.previous_token[0, 1] == pytest.approx((1 / (t[1:] + 1)).mean(), abs=1e-6)
    assert found.induction_error[0, 1] < 1e-6
    if repeats == 3:
        # Earlier copies count together: a first token has 1 of 2 keys right, then 2 of 3.
        firsts = (1 / 2 + 2 / 3) / 2
        assert found.induction[1, 0] == pytest.approx(1 - (1 - firsts) / LENGTH, abs=1e-3)
        assert found.duplicate_token[1, 1] == pytest.approx(firsts, abs=1e-3)


def test_the_induction_head_needs_the_head_before_it(llm):
    found = induction_scores(llm, length=LENGTH, count=4, taps=edits.ablate_heads([(0, 0)]))
    assert found.induction[1, 0] < 0.2


def test_errors_are_standard_errors_over_sequences(llm, monkeypatch):
    scores = iter([0.1, 0.5, 0.3, 0.7])
    monkeypatch.setattr(induction, "_scores", lambda *_, **__: np.full((3, 2, 2), next(scores)))
    found = induction_scores(llm, length=LENGTH, count=4)
    np.testing.assert_allclose(found.previous_token, 0.4)
    # The sample's variance is (0.09 + 0.01 + 0.01 + 0.09) / 3, that of the mean a fourth of it.
    np.testing.assert_allclose(found.previous_token_error, (0.2 / 3 / 4) ** 0.5)


def test_a_seed_draws_the_same_sequences():
    with fj.LLM.load("demo") as llm:
        first, same, other = (
            induction_scores(llm, length=12, count=2, seed=seed).induction for seed in (1, 1, 2)
        )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3


def test_the_demo_model_has_induction_heads():
    with fj.LLM.load("demo") as llm:
        found = induction_scores(llm, length=30, count=4)
    assert found.heads()[0] == (4, 3)
    assert {layer for layer, _ in found.heads(above=0.1)} <= {4, 5}
    assert found.previous_token[1, 3] > 0.9
    assert found.duplicate_token.max() < 0.1
    assert found.induction[:4].max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"length": 1}, "length is 1; it must be an integer of at least 2"),
        ({"repeats": 1}, "repeats is 1"),
        ({"count": 1}, "count is 1"),
        ({"length": 23, "repeats": 6}, "make 138 tokens; the model takes 128"),
        ({"length": 25}, "only 24 different tokens"),
    ],
)
def test_wrong_arguments_say_so(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        induction_scores(llm, **arguments)


def test_the_table_and_the_figure(found, tmp_path):
    assert "1.0 0.950 ±" in repr(found).splitlines()[1]
    figure = found.plot(tmp_path / "induction.png")
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["induction", "previous token", "duplicate token"]
    np.testing.assert_allclose(panels[0].images[0].get_array(), found.induction)
    with pytest.raises(fj.RequestError, match="kind is 'copying'"):
        found.heads("copying")
