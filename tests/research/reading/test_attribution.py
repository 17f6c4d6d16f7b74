"""Direct logit attribution: the terms against numpy, and their sum against the model."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research import edits
from ferrum_jax.research.reading import direct_logit_attribution
from ferrum_jax.types import NormKind
from tests.research.reading import reference

IDS = reference.prompt(11)
AT = 7


def frozen(x, scale_of, p, kind, eps):
    """A norm without its bias, as a linear map of x: the scale is that of another vector."""
    if kind is NormKind.LAYER:
        return (x - x.mean()) / np.sqrt(scale_of.var() + eps) * p.weight
    weight = 1 + p.weight if kind is NormKind.RMS_UNIT_OFFSET else p.weight
    return x / np.sqrt((scale_of**2).mean() + eps) * weight


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", reference.KINDS)
def test_every_term_is_numpys_and_they_add_up(kind, tied):
    llm = reference.make_llm(kind, tie_embeddings=tied, embed_scale=3.0 if tied else 1.0)
    config, params = llm.config, jax.tree.map(np.asarray, llm.params)
    found = direct_logit_attribution(llm, IDS, 5, against=17, position=AT)
    run = reference.run(llm, IDS)
    unembed = params.embed.T if tied else params.unembed
    last = run.resid_post[-1][AT]

    def logit(x):
        through = frozen(x, last, params.final_norm, config.final_norm, config.norm_eps)
        return through @ (unembed[:, 5] - unembed[:, 17])

    assert found.embedding == pytest.approx(logit(run.embedding[AT]), abs=1e-4)
    for i, (spec, p) in enumerate(zip(config.layers, params.layers, strict=True)):
        assert found.mlp[i] == pytest.approx(logit(run.mlp_out[i][AT]), abs=1e-4)
        o_bias = np.zeros(32) if p.attention.o_bias is None else p.attention.o_bias
        parts, post = [*run.heads[i][:, AT], o_bias], p.mixer_post_norm
        if post is not None:
            whole = np.sum(parts, axis=0)
            parts = [frozen(part, whole, post, spec.norm, config.norm_eps) for part in parts]
            parts[-1] = parts[-1] + (0 if post.bias is None else post.bias)
        *heads, bias = [logit(part) for part in parts]
        np.testing.assert_allclose(found.heads[i], heads, atol=1e-4)
        assert found.attention_bias[i] == pytest.approx(bias, abs=1e-4)
    assert np.abs(found.remainder).max() < 1e-4
    model = llm.logits(IDS)[AT]
    assert found.logit == pytest.approx(model[5] - model[17], abs=1e-4)
    assert found.total == pytest.approx(found.logit, abs=1e-4)
    assert sum(found.terms.values()) == pytest.approx(found.logit, abs=1e-4)


def test_a_soft_cap_is_named_and_left_out():
    llm = reference.make_llm("sandwich", final_soft_cap=2.0)
    found = direct_logit_attribution(llm, IDS, 5)
    uncapped = fj.LLM(replace(llm.config, final_soft_cap=None), llm.params)
    assert found.logit == pytest.approx(uncapped.logits(IDS)[-1, 5], abs=1e-4)
    assert found.total == pytest.approx(found.logit, abs=1e-4)
    assert "before the soft cap of 2" in repr(found)


@pytest.fixture(scope="module")
def llm():
    return reference.make_llm("layer norm, biases")


def test_several_targets_are_averaged(llm):
    found = direct_logit_attribution(llm, IDS, (5, 6), against=[7, 8, 9])
    model = llm.logits(IDS)[-1]
    assert found.logit == pytest.approx(model[[5, 6]].mean() - model[[7, 8, 9]].mean(), abs=1e-4)
    assert (found.target, found.against) == (("5", "6"), ("7", "8", "9"))
    assert found.position == len(IDS) - 1


def test_an_edited_model(llm):
    """An ablated head has no term; a steered residual is the remainder of its layer."""
    vector = np.linspace(-1, 1, 32).astype(np.float32)
    taps = edits.ablate_heads([(0, 2)]) + edits.steer(vector, 1)
    found = direct_logit_attribution(llm, IDS, 5, taps=taps)
    assert found.heads[0, 2] == 0
    assert found.remainder[0] == pytest.approx(0, abs=1e-4)
    assert abs(found.remainder[1]) > 0.1
    assert found.logit == pytest.approx(llm.logits(IDS, taps=taps)[-1, 5], abs=1e-4)
    assert found.total == pytest.approx(found.logit, abs=1e-4)
    with pytest.raises(fj.UnsupportedError, match="edits of the site 'logits'"):
        direct_logit_attribution(llm, IDS, 5, taps=edits.scale("logits", 2.0))


def test_layers_of_different_heads(tmp_path):
    wide = reference.DENSE
    narrow = replace(wide, attention=replace(wide.attention, num_heads=2, num_kv_heads=1))
    config = replace(reference.make_llm("dense").config, layers=(narrow, wide))
    llm = fj.LLM(config, init_params(config))
    found = direct_logit_attribution(llm, IDS, 5)
    assert np.isnan(found.heads).tolist() == [[False, False, True, True], [False] * 4]
    assert found.total == pytest.approx(llm.logits(IDS)[-1, 5], abs=1e-4)
    assert "0.head.1" in found.terms
    assert "0.head.2" not in found.terms
    found.plot(tmp_path / "attribution.png")


def test_texts_name_tokens():
    with fj.LLM.load("demo") as llm:
        found = direct_logit_attribution(llm, "def add(a, b):\n    return a", "(", against=")")
        assert found.target == ("(",)
        assert repr(found).startswith("logit of '(' - ')'; after")
        assert found.total == pytest.approx(found.logit, abs=1e-4)
        assert np.abs(found.remainder).max() < 1e-4
        with pytest.raises(fj.RequestError, match=r"target 'hello world' is \d tokens \("):
            direct_logit_attribution(llm, "def", "hello world")
    with pytest.raises(fj.TokenizerError):
        direct_logit_attribution(reference.make_llm("dense"), IDS, "(")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": 90}, "target is token id 90; the vocabulary has ids 0 to 89"),
        ({"target": ()}, "target is empty"),
        ({"target": 5, "position": 11}, "position is 11; the prompt has tokens 0 to 10"),
    ],
)
def test_wrong_arguments_say_so(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        direct_logit_attribution(llm, IDS, **arguments)


def test_the_figure(llm, tmp_path):
    found = direct_logit_attribution(llm, IDS, 5)
    figure = found.plot(tmp_path / "attribution.png")
    cells = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(cells[:, :4], found.heads)
    np.testing.assert_allclose(cells[:, 4], found.mlp)
    np.testing.assert_allclose(cells[:, 5], found.attention_bias)
    assert cells.shape == (2, 6)
