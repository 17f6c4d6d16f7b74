"""Fits: they learn, are served by the engine as they were fitted, and leave the model alone."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ferrum_jax as fj
from ferrum_jax.research.fit import Fit, LoRA, SoftPrompt, SteeringVector, Trainable, fit
from tests.research.fit.models import HELD_OUT, PAIRS, make_llm, nats_per_completion_token

TRAINABLES = {
    "vector": (SteeringVector(1), 0.2),
    "soft prompt": (SoftPrompt(3, text=(900, 901)), 0.1),
    "lora": (LoRA(rank=2, targets=("q", "v", "down")), 0.05),
}
STEPS = 12


@pytest.fixture(scope="module")
def fits(llm):
    return {
        name: fit(llm, trainable, PAIRS, steps=STEPS, learning_rate=rate, held_out=HELD_OUT)
        for name, (trainable, rate) in TRAINABLES.items()
    }


def served_nats(llm, fitted, pairs):
    """The loss as the engine gives it with the fitted value."""
    if isinstance(fitted.trainable, LoRA):
        with fitted.llm(llm) as changed:
            return nats_per_completion_token(changed, pairs)
    return nats_per_completion_token(llm, pairs, fitted.wrap, taps=fitted.taps)


@pytest.mark.parametrize("name", TRAINABLES)
def test_it_learns_and_serves_what_it_learnt(llm, fits, name):
    fitted = fits[name]
    before = nats_per_completion_token(llm, HELD_OUT)
    assert served_nats(llm, fitted, HELD_OUT) < before - 1
    np.testing.assert_allclose(
        served_nats(llm, fitted, HELD_OUT), fitted.held_out_losses[-1], rtol=1e-4
    )
    assert fitted.held_out_steps.tolist() == [0, STEPS]
    assert fitted.losses.shape == (STEPS,)
    assert fitted.losses[-1] < fitted.losses[0] - 1


@pytest.mark.parametrize("name", ["vector", "lora"])
def test_the_first_loss_is_the_models_own(llm, fits, name):
    expected = nats_per_completion_token(llm, PAIRS)
    np.testing.assert_allclose(fits[name].losses[0], expected, rtol=1e-5)
    expected = nats_per_completion_token(llm, HELD_OUT)
    np.testing.assert_allclose(fits[name].held_out_losses[0], expected, rtol=1e-5)


def test_a_soft_prompt_starts_as_its_text(llm, fits):
    wrapped = nats_per_completion_token(llm, PAIRS, lambda ids: [900, 901, 900, *ids])
    np.testing.assert_allclose(fits["soft prompt"].losses[0], wrapped, rtol=1e-5)


def test_generation_changes_for_those_who_ask(llm, fits):
    params = fj.SamplingParams(max_tokens=1, temperature=0.0)
    prompt = HELD_OUT[0][0]
    steered, plain = llm.generate([prompt, prompt], params, taps=[fits["vector"].taps, None])
    alone = llm.generate([prompt], params)[0]
    assert plain.outputs[0].token_ids == alone.outputs[0].token_ids
    assert steered.outputs[0].token_ids != plain.outputs[0].token_ids


def test_a_vector_at_generated_tokens_acts_on_completions(llm):
    """It is added where a completion's tokens are read, so the first one's loss cannot change."""
    fitted = fit(llm, SteeringVector(0, positions="generated"), PAIRS, steps=3, learning_rate=0.3)
    found, plain = (
        np.stack([score.logprobs[-2:] for score in llm.score(_joined(PAIRS), taps=taps)])
        for taps in (_at_positions(fitted, PAIRS), None)
    )
    np.testing.assert_allclose(found[:, 0], plain[:, 0], atol=1e-5)
    assert (found[:, 1] > plain[:, 1] + 0.1).all()
    assert fitted.losses[-1] < fitted.losses[0]


def _joined(pairs):
    return [[*prompt, *completion] for prompt, completion in pairs]


def _at_positions(fitted, pairs):
    vector = fitted.value["vector"]
    return [fj.edits.steer(vector, 0, positions=[len(p), len(p) + 1]) for p, _ in pairs]


def test_the_same_seed_gives_the_same_fit(llm, fits):
    trainable, rate = TRAINABLES["soft prompt"]
    again = fit(llm, trainable, PAIRS, steps=STEPS, learning_rate=rate)
    np.testing.assert_array_equal(again.losses, fits["soft prompt"].losses)
    random = SoftPrompt(3)
    assert not np.array_equal(*(random.init(llm, seed)["embeddings"] for seed in (0, 1)))


def test_remat_gives_the_same_fit(llm, fits):
    trainable, rate = TRAINABLES["vector"]
    again = fit(llm, trainable, PAIRS, steps=STEPS, learning_rate=rate, remat=True)
    np.testing.assert_allclose(again.losses, fits["vector"].losses, rtol=1e-4)


def test_gradient_descent_by_hand(llm):
    """One step of plain descent is the negative gradient of the loss, here by differences."""
    fitted = fit(llm, SteeringVector(1), PAIRS[:1], steps=1, optimizer=optax.sgd(1.0))
    (prompt, completion), direction = PAIRS[0], np.random.default_rng(0).standard_normal(32)
    ends = [
        -np.sum(
            llm.score([[*prompt, *completion]], taps=fj.edits.steer(s * direction, 1))[0].logprobs[
                -2:
            ]
        )
        / 2
        for s in (-1e-2, 1e-2)
    ]
    slope = (ends[1] - ends[0]) / 2e-2
    np.testing.assert_allclose(-fitted.value["vector"] @ direction, slope, rtol=1e-2)


def test_the_models_weights_stay(llm):
    own = make_llm()
    fit(own, LoRA(rank=1), PAIRS, steps=2, learning_rate=1.0)
    fit(own, Embeddings(), PAIRS, steps=2, learning_rate=1.0)
    jax.tree_util.tree_map(np.testing.assert_array_equal, own.params, llm.params)


@dataclass(frozen=True)
class Embeddings(Trainable):
    """Starts with an array of the model itself, which no step may free."""

    def init(self, llm, seed):
        return {"weight": llm.params.final_norm.weight}

    def merge(self, config, params, value):
        return params.replace(final_norm=params.final_norm.replace(weight=value["weight"]))


@dataclass(frozen=True)
class NeuronScales(Trainable):
    """One's own trainable in a few lines."""

    layer: int

    def init(self, llm, seed):
        return {"scales": jnp.ones(llm.config.layers[self.layer].mlp.ffn_size)}

    def taps(self, value):
        return fj.edits.scale("mlp_post", value["scales"], layers=self.layer)


def test_ones_own_trainable(llm, tmp_path):
    fitted = fit(llm, NeuronScales(0), PAIRS, steps=5, learning_rate=0.5)
    assert fitted.losses[-1] < fitted.losses[0]
    np.testing.assert_allclose(nats_per_completion_token(llm, PAIRS), fitted.losses[0], rtol=1e-5)
    assert nats_per_completion_token(llm, PAIRS, taps=fitted.taps) < fitted.losses[-2]
    fitted.save(tmp_path / "own.safetensors")
    with pytest.raises(fj.RequestError, match=r"give Fit.load\(path, trainable=NeuronScales"):
        Fit.load(tmp_path / "own.safetensors")
    loaded = Fit.load(tmp_path / "own.safetensors", NeuronScales(0))
    np.testing.assert_array_equal(loaded.value["scales"], fitted.value["scales"])


def test_few_lengths_are_compiled_and_other_texts_compile_nothing(llm):
    traced = []

    def counted_loss(logits, tokens, mask):
        traced.append(tokens.shape)
        return -jnp.sum(logits[..., 5] * mask) / jnp.sum(mask)

    rng = np.random.default_rng(0)

    def texts(seed):
        return [rng.integers(0, 4096, n).tolist() for n in range(3, 41, 4)]

    for seed in range(3):
        fit(
            llm, SteeringVector(0), texts(seed), steps=10, batch_size=2, seed=seed,
            learning_rate=0.1, loss=counted_loss,
        )  # fmt: skip
    assert set(traced) <= {(2, 16), (2, 32), (2, 64)}
    assert len(traced) == len(set(traced))


def test_ones_own_loss_is_minimised(llm):
    def away_from_five(logits, tokens, mask):
        assert logits.shape == (3, 16, 4096)
        return jnp.sum(logits[..., 5] * mask) / jnp.sum(mask)

    fitted = fit(llm, SteeringVector(1), PAIRS, steps=8, learning_rate=0.1, loss=away_from_five)
    assert fitted.losses[-1] < fitted.losses[0] - 0.1
    expected = np.mean([x[5] for ids in _joined(PAIRS) for x in llm.logits(ids)[-2:]])
    np.testing.assert_allclose(fitted.losses[0], expected, atol=1e-5)
    assert fitted.record["loss"] == "away_from_five"


@pytest.mark.parametrize("name", TRAINABLES)
def test_a_file_holds_everything(llm, fits, name, tmp_path):
    fitted = fits[name]
    fitted.save(tmp_path / "fit.safetensors")
    loaded = Fit.load(tmp_path / "fit.safetensors")
    assert loaded.trainable == fitted.trainable
    assert loaded.value.keys() == fitted.value.keys()
    for key, x in fitted.value.items():
        np.testing.assert_array_equal(loaded.value[key], x)
    np.testing.assert_array_equal(loaded.losses, fitted.losses)
    np.testing.assert_array_equal(loaded.held_out_losses, fitted.held_out_losses)
    assert loaded.record["settings"] == fitted.record["settings"]
    assert loaded.record["settings"]["seed"] == 0
    assert "jax" in loaded.record["versions"]
    assert repr(loaded) == repr(fitted)


def test_what_is_no_file_of_a_fit(fits, tmp_path):
    with pytest.raises(fj.WeightError, match="cannot be read"):
        Fit.load(tmp_path / "missing.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    with pytest.raises(fj.WeightError, match="cannot be read"):
        Fit.load(tmp_path / "damaged.safetensors")
    fits["vector"].save(tmp_path / "fit.safetensors")
    with pytest.raises(fj.RequestError, match="is the fit of a SteeringVector; a LoRA was given"):
        Fit.load(tmp_path / "fit.safetensors", LoRA())


def test_each_is_served_in_its_own_way(llm, fits):
    with pytest.raises(fj.UnsupportedError, match=r"changes weights.*fitted.llm\(llm\)"):
        _ = fits["lora"].taps
    with pytest.raises(fj.UnsupportedError, match=r"changes no weights.*taps=fitted.taps"):
        fits["vector"].llm(llm)
    assert fits["soft prompt"].wrap([7, 8]) == [0, 0, 0, 7, 8]
    assert fits["vector"].wrap((7, 8)) == [7, 8]
    smaller = fj.edit_layers(llm.config)
    other = fj.LLM(
        type(smaller)(**{**vars(smaller), "layers": smaller.layers[:1]}),
        llm.params.replace(layers=llm.params.layers[:1]),
    )
    with pytest.raises(fj.ModelError, match="fitted to another model"):
        fits["lora"].llm(other)


def test_the_plot_shows_every_loss(llm, tmp_path):
    fitted = fit(
        llm, SteeringVector(1), PAIRS, steps=41, learning_rate=0.1, held_out=HELD_OUT,
        evaluate_every=20,
    )  # fmt: skip
    ax = fitted.plot(tmp_path / "loss.png").axes[0]
    each, mean, held = ax.lines
    np.testing.assert_array_equal(each.get_ydata(), fitted.losses)
    np.testing.assert_allclose(mean.get_ydata()[-1], fitted.losses[-2:].mean(), rtol=1e-6)
    np.testing.assert_allclose(mean.get_ydata()[7], fitted.losses[6:9].mean(), rtol=1e-6)
    np.testing.assert_array_equal(held.get_xdata(), [0, 20, 40, 41])
    assert ax.get_ylabel() == "loss [nats per token]"


def test_a_loss_that_is_not_finite_ends_the_fit(llm):
    def broken(logits, tokens, mask):
        return jnp.sum(logits) * math.inf

    with pytest.raises(fj.RequestError, match=r"the loss is (nan|-?inf) in step 0"):
        fit(llm, SteeringVector(1), PAIRS, steps=3, learning_rate=0.1, loss=broken)


class Mutable(SteeringVector):
    """Not hashable."""

    __hash__ = None


@dataclass(frozen=True)
class Whole(Trainable):
    """Starts at integers."""

    def init(self, llm, seed):
        return {"x": jnp.zeros(3, jnp.int32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; give a number from 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"evaluate_every": -1}, "evaluate_every is -1"),
        ({"learning_rate": None}, "give one of them"),
        ({"optimizer": optax.sgd(0.1)}, "give one of them"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1; give a number above 0"),
        ({"held_out": []}, r"held_out is \[\]"),
        ({"trainable": SteeringVector(2)}, "layer 2 does not exist"),
        ({"trainable": SteeringVector(0, site="residual")}, "'residual' is not a site"),
        ({"trainable": SteeringVector(0, site="pattern")}, "no vector per token"),
        ({"trainable": SoftPrompt(2, placeholder=4096)}, "placeholder is 4096"),
        ({"trainable": Mutable(0)}, "Mutable is not hashable"),
        ({"trainable": Whole()}, "dtype int32; only floats"),
    ],
)
def test_wrong_arguments_say_so(llm, change, message):
    arguments = {
        "llm": llm, "trainable": SteeringVector(0), "texts": PAIRS, "steps": 2,
        "learning_rate": 0.1,
    }  # fmt: skip
    with pytest.raises(fj.RequestError, match=message):
        fit(**(arguments | change))


def test_wrong_trainables_say_so():
    with pytest.raises(fj.RequestError, match="positions is slice"):
        SteeringVector(0, positions=slice(0, 3))
    with pytest.raises(fj.RequestError, match="the names are 'prompt' and 'generated'"):
        SteeringVector(0, positions="last")
    with pytest.raises(fj.RequestError, match="length is 0"):
        SoftPrompt(0)
