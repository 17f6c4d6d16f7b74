"""The tuned lens: it starts as the logit lens, and finds a map that was built in."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research import edits
from ferrum_jax.research.reading import TunedLens, logit_lens
from tests.research.reading import reference

TEXTS = [reference.prompt(length, seed=length) for length in (40, 33, 27, 50)]
CORPUS = [reference.prompt(60, seed=seed) for seed in range(12)]
FIELDS = ("top_ids", "top_probabilities", "next_probability", "next_rank", "kl", "entropy")


def shifted_llm() -> fj.LLM:
    """Layer 1 adds a constant vector and nothing else, so that an affine map predicts it."""
    plain = reference.DENSE
    shift = replace(plain, attention=replace(plain.attention, out_bias=True))
    config = replace(reference.make_llm("dense").config, layers=(plain, shift))
    params = init_params(config, seed=4)
    added = jnp.asarray(np.random.default_rng(0).standard_normal(32), jnp.float32)
    first, second = params.layers
    second = second.replace(
        attention=second.attention.replace(o=jnp.zeros_like(second.attention.o), o_bias=added),
        mlp=jax.tree.map(jnp.zeros_like, second.mlp),
    )
    engine = fj.EngineConfig(page_size=4, num_pages=256, max_num_seqs=4, max_num_batched_tokens=32)
    return fj.LLM(config, params.replace(layers=(first, second)), engine=engine)


@pytest.fixture(scope="module")
def llm():
    return shifted_llm()


@pytest.fixture(scope="module")
def lens(llm):
    return TunedLens.fit(
        llm, CORPUS, steps=200, batch_tokens=64, learning_rate=0.03, progress=False
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_identity_is_the_logit_lens_to_the_bit(llm, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), llm.params)
    model = fj.LLM(llm.config, params)
    tuned = TunedLens.identity(llm.config).read(model, TEXTS[0])
    plain = logit_lens(model, TEXTS[0])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(tuned, name), getattr(plain, name))
    assert (tuned.lens, plain.lens) == ("tuned lens", "logit lens")


def test_training_finds_the_map(llm, lens):
    text = reference.prompt(60, seed=99)
    before, after = logit_lens(llm, text).kl, lens.read(llm, text).kl
    assert before[0].mean() > 0.2
    assert after[0].mean() < 0.1 * before[0].mean()
    assert after[1].max() < 1e-6
    assert lens.losses.shape == (200, 1)
    assert lens.losses[0, 0] == pytest.approx(before[0].mean(), rel=0.5)
    assert lens.losses[-10:].mean() < 0.05 * lens.losses[0, 0]


def test_a_known_map_is_applied_as_it_is_written(llm):
    """x + x W + b before the final norm, against numpy."""
    rng = np.random.default_rng(1)
    weight = 0.1 * rng.standard_normal((1, 32, 32)).astype(np.float32)
    bias = rng.standard_normal((1, 32)).astype(np.float32)
    read = TunedLens(weight, bias, np.zeros((0, 1), np.float32)).read(llm, TEXTS[1], layers=(1, 0))
    first, last = reference.run(llm, TEXTS[1]).resid_post
    for i, resid in enumerate((last, first + first @ weight[0] + bias[0])):
        p = reference.softmax(reference.logits(llm, resid))
        np.testing.assert_allclose(read.top_probabilities[i, :, 0], p.max(1), atol=1e-5)


def test_the_first_update_goes_down_the_gradient(llm):
    """Adam's first step is the rate times the gradient's sign."""
    rate, step = 1e-3, 1e-2
    once = TunedLens.fit(llm, [TEXTS[0]], steps=1, batch_tokens=40, learning_rate=rate)
    first, last = reference.run(llm, TEXTS[0]).resid_post
    final = np.log(reference.softmax(reference.logits(llm, last)))

    def loss(bias):
        own = np.log(reference.softmax(reference.logits(llm, first + bias)))
        return (np.exp(final) * (final - own)).sum(1).mean()

    assert once.losses[0, 0] == pytest.approx(loss(np.zeros(32)), abs=1e-5)
    for i in range(32):
        unit = step * np.eye(32)[i]
        slope = (loss(unit) - loss(-unit)) / (2 * step)
        if abs(slope) > 1e-4:
            assert once.bias[0, i] == pytest.approx(-rate * np.sign(slope), rel=0.01)


def test_a_corpus_of_several_chunks_is_gone_through_again(llm, monkeypatch):
    """150 tokens in chunks of about 50: three captures a round, and every text in each round."""
    capture, captured = llm.capture, []

    def count(prompts, **options):
        captured.extend(prompts)
        return capture(prompts, **options)

    monkeypatch.setattr(llm, "capture", count)
    TunedLens.fit(llm, TEXTS, steps=6, batch_tokens=64, chunk_tokens=50, progress=False)
    assert 5 <= len(captured) <= 8
    assert sorted(captured[:4]) == sorted(TEXTS)


def test_an_edited_model_is_fitted(llm):
    """Without the constant that layer 1 adds, the logit lens is right and stays so."""
    taps = edits.ablate_layer(1)
    lens = TunedLens.fit(llm, TEXTS, steps=3, batch_tokens=64, taps=taps, progress=False)
    assert lens.losses[0].max() < 1e-5
    assert lens.read(llm, TEXTS[0], taps=taps).kl[1].max() < 1e-6


def test_a_lens_comes_back_from_its_file(lens, llm, tmp_path):
    lens.save(tmp_path / "lens.safetensors")
    loaded = TunedLens.load(tmp_path / "lens.safetensors")
    for name in ("weight", "bias", "losses"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(lens, name))
    assert repr(loaded) == repr(lens)


def test_files_that_are_no_lens(llm, lens, tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(fj.WeightError, match=r"nowhere\.safetensors"):
        TunedLens.load(tmp_path / "nowhere.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    lens.save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(fj.WeightError, match="cannot be read as a tuned lens"):
        TunedLens.load(damaged)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(fj.WeightError, match="holds no tuned lens"):
        TunedLens.load(tmp_path / "other.safetensors")


def test_a_lens_of_another_model_is_refused(lens):
    with pytest.raises(fj.ModelError, match="for 2 layers of width 32; the model has 3 of 32"):
        lens.read(reference.make_llm("dense"), [1, 2])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"texts": []}, "there are no texts"),
        ({"texts": TEXTS, "steps": 0}, "steps is 0"),
        ({"texts": TEXTS, "learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
    ],
)
def test_wrong_arguments_say_so(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        TunedLens.fit(llm, **arguments)


def test_what_cannot_be_fitted(llm):
    with pytest.raises(fj.UnsupportedError, match="edits of the site 'logits'"):
        TunedLens.fit(llm, TEXTS, taps=edits.scale("logits", 2.0))
    single = replace(llm.config, layers=llm.config.layers[:1])
    model = fj.LLM(single, llm.params.replace(layers=llm.params.layers[:1]))
    with pytest.raises(fj.RequestError, match="the model has 1 layer"):
        TunedLens.fit(model, TEXTS)


def test_the_figure(lens, llm, tmp_path):
    figure = lens.plot(tmp_path / "lens.png")
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), lens.losses[:, 0])
    with pytest.raises(fj.RequestError, match="was not trained"):
        TunedLens.identity(llm.config).plot()
