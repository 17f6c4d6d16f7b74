"""The logit lens: every number against numpy, the last layer against the model."""

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research import edits
from ferrum_jax.research.figure import drawable
from ferrum_jax.research.reading import logit_lens
from tests.research.reading import reference

LENGTH = 70
"""More than one block of positions."""


@pytest.fixture(scope="module")
def demo():
    with fj.LLM.load("demo") as llm:
        yield llm


@pytest.fixture(scope="module")
def llm():
    return reference.make_llm("dense")


@pytest.mark.parametrize("kind", reference.KINDS)
def test_every_number_is_numpys(kind):
    llm = reference.make_llm(kind, final_soft_cap=8.0 if kind == "sandwich" else None)
    ids = reference.prompt(LENGTH)
    read = logit_lens(llm, ids)
    resid_post = reference.run(llm, ids).resid_post
    final = np.log(reference.softmax(reference.logits(llm, resid_post[-1])))
    assert read.layers == tuple(range(llm.config.num_layers))
    for i, resid in enumerate(resid_post):
        p = reference.softmax(reference.logits(llm, resid))
        following = p[np.arange(LENGTH - 1), ids[1:]]
        order = np.argsort(-p, axis=1)[:, :5]
        np.testing.assert_array_equal(read.top_ids[i], order)
        np.testing.assert_allclose(
            read.top_probabilities[i], np.take_along_axis(p, order, 1), atol=1e-5
        )
        np.testing.assert_allclose(read.next_probability[i, :-1], following, atol=1e-5)
        rank = 1 + (p[:-1] > following[:, None]).sum(1)
        np.testing.assert_array_equal(read.next_rank[i, :-1], rank)
        np.testing.assert_allclose(read.entropy[i], -(p * np.log(p)).sum(1), atol=1e-4)
        kl = (np.exp(final) * (final - np.log(p))).sum(1)
        np.testing.assert_allclose(read.kl[i], kl, atol=1e-4)
    assert np.isnan(read.next_probability[:, -1]).all()
    assert (read.next_rank[:, -1] == 0).all()


def test_the_last_layer_is_the_model(demo):
    text = "The for statement is used to iterate over"
    read = logit_lens(demo, text)
    score = demo.score(text)[0]
    np.testing.assert_allclose(
        np.log(read.next_probability[-1, :-1]), score.logprobs[1:], atol=1e-4
    )
    assert read.kl[-1].max() < 1e-5
    assert (np.diff(read.kl.mean(axis=1)) < 0).all()
    assert list(read.token_ids) == score.token_ids
    assert read.tokens[1] == "The"
    assert read.top_tokens[-1][-1][0] == demo.tokenizer.token_text(int(read.top_ids[-1, -1, 0]))


def test_layers_and_sites_are_those_asked_for(llm):
    ids = reference.prompt(9)
    everything, some = logit_lens(llm, ids), logit_lens(llm, ids, layers=(2, 0))
    assert some.layers == (2, 0)
    np.testing.assert_allclose(some.entropy, everything.entropy[[2, 0]], atol=1e-6)
    found = reference.run(llm, ids)
    for site, resid in {"resid_pre": found.embedding, "attn_out": found.attn_out[0]}.items():
        p = reference.softmax(reference.logits(llm, resid))
        read = logit_lens(llm, ids, layers=0, site=site)
        np.testing.assert_allclose(read.top_probabilities[0, :, 0], p.max(1), atol=1e-5)


def test_an_edited_model_is_read(llm):
    ids = reference.prompt(9)
    vector = np.linspace(-1, 1, llm.config.hidden_size).astype(np.float32)
    taps = edits.steer(vector, 1, scale=2.0)
    resid = reference.run(llm, ids).resid_post
    read = logit_lens(llm, ids, taps=taps)
    moved = reference.softmax(reference.logits(llm, resid[1] + 2 * vector))
    np.testing.assert_allclose(read.top_probabilities[1, :, 0], moved.max(1), atol=1e-5)
    as_it_was = reference.softmax(reference.logits(llm, resid[0]))
    np.testing.assert_allclose(read.top_probabilities[0, :, 0], as_it_was.max(1), atol=1e-5)
    output = reference.softmax(llm.logits(ids, taps=taps))
    np.testing.assert_allclose(read.top_probabilities[2, :, 0], output.max(1), atol=1e-5)


def test_edits_of_the_logits_act_on_every_layer(llm):
    ids = reference.prompt(9)
    ban = np.zeros(reference.VOCAB, np.float32)
    ban[logit_lens(llm, ids).top_ids[:, -1, 0]] = -np.inf
    read = logit_lens(llm, ids, taps=edits.custom("logits", jnp.add, jnp.asarray(ban)))
    assert not np.isin(read.top_ids[:, -1, 0], np.flatnonzero(ban)).any()
    assert np.isfinite(read.kl).all()
    assert np.isfinite(read.entropy).all()
    assert read.kl[-1].max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"site": "z"}, "'z'; a lens reads one of resid_pre"),
        ({"layers": 3}, "layer 3 does not exist; the model has layers 0 to 2"),
        ({"layers": ()}, "layers is empty"),
        ({"taps": [None]}, "taps is a list"),
        ({"taps": edits.ablate_heads([(0, 9)])}, "head 9 does not exist"),
    ],
)
def test_wrong_arguments_say_so(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        logit_lens(llm, [1, 2, 3], **arguments)


def test_a_single_token_has_nothing_that_follows(llm, tmp_path):
    read = logit_lens(llm, [4])
    assert "nan" in repr(read)
    read.plot(tmp_path / "one.png")


def test_the_table_and_the_figure(demo, tmp_path):
    read = logit_lens(demo, "cost $5 or $6\n\tüber 漢字 " + "and so on " * 20)
    assert repr(read).splitlines()[2].split()[0] == "0"
    figure = read.plot(tmp_path / "lens.png")
    assert (tmp_path / "lens.png").stat().st_size > 10_000
    assert "the last 20 of" in figure.get_suptitle()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[-1] == drawable(read.top_tokens[-1][-1][0], 9)
    with pytest.raises(fj.RequestError, match="max_positions is 0"):
        read.plot(max_positions=0)


def test_labels_show_what_they_stand_for():
    assert drawable("\N{LOWER ONE EIGHTH BLOCK}the") == "\N{OPEN BOX}the"
    assert drawable("a\n\tb") == "a\\n\\tb"
    assert drawable("漢") == "\N{WHITE SQUARE}"
    assert drawable("x" * 20) == "x" * 11 + "\N{HORIZONTAL ELLIPSIS}"
