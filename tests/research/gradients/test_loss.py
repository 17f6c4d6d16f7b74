"""The loss against cross entropy by hand and the engine's scores; its gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.attention import dense_attention_of_rows
from ferrum_jax.research.gradients import loss, value_and_float_grad
from tests.research.gradients.models import CONFIG, PROMPT, random

OTHER = [8, 1, 30]
TOKENS = jnp.asarray([*PROMPT, *OTHER, 0, 0], jnp.int32)
POSITIONS = jnp.asarray([*range(6), *range(3), 0, 0], jnp.int32)
of_texts = partial(loss, config=CONFIG, positions=POSITIONS)
loss_of = jax.jit(of_texts, static_argnames="reduction")
loss_and_gradient = jax.jit(jax.value_and_grad(of_texts), static_argnames="remat")


def nats_by_hand(llm, ids, **kwargs):
    """The nats of each token but the first, from full logits in float64."""
    logits = llm.logits(ids, **kwargs).astype(np.float64)[:-1]
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logprobs[np.arange(len(ids) - 1), ids[1:]]


def test_the_loss_is_the_cross_entropy_of_every_text(llm):
    first, second = nats_by_hand(llm, PROMPT), nats_by_hand(llm, OTHER)
    each = loss_of(llm.params, TOKENS, reduction="none")
    np.testing.assert_allclose(each, [0, *first, 0, *second, 0, 0], atol=2e-5)
    total = first.sum() + second.sum()
    np.testing.assert_allclose(loss_of(llm.params, TOKENS, reduction="sum"), total, rtol=1e-5)
    np.testing.assert_allclose(loss_of(llm.params, TOKENS), total / 7, rtol=1e-5)
    assert each.dtype == jnp.float32


def test_the_loss_is_what_the_engine_scores(llm):
    with_edit = fj.edits.ablate_heads([(0, 1), (1, 2)])
    for taps in (None, with_edit):
        scores = llm.score([PROMPT, OTHER], taps=taps)
        total = loss_of(llm.params, TOKENS, taps=taps or fj.Taps(), reduction="sum")
        np.testing.assert_allclose(total, -sum(score.total for score in scores), rtol=1e-5)


def test_rows_of_equal_length_attend_each_to_itself(llm):
    rows, positions = (
        jnp.asarray([*PROMPT, *OTHER, 0, 0, 0]),
        jnp.asarray([*range(6), *range(3), 0, 0, 0]),
    )
    found = loss(
        llm.params,
        rows,
        config=CONFIG,
        positions=positions,
        attend=dense_attention_of_rows(2),
    )
    np.testing.assert_allclose(found, loss_of(llm.params, TOKENS), rtol=1e-5)


def test_a_mask_weighs_the_tokens_that_are_predicted(llm):
    mask = jnp.asarray([5.0, 1, 0, 0.5, 0, 0, 9, 0, 2, 7, 7])
    first, second = nats_by_hand(llm, PROMPT), nats_by_hand(llm, OTHER)
    expected = (first[0] + 0.5 * first[2] + 2 * second[1]) / 3.5
    np.testing.assert_allclose(loss_of(llm.params, TOKENS, mask=mask), expected, rtol=1e-5)
    assert np.isnan(loss_of(llm.params, TOKENS, mask=jnp.zeros(11)))


def test_edits_of_the_logits_count(llm):
    taps = fj.edits.steer(random(37), None, site="logits")
    expected = nats_by_hand(llm, PROMPT, taps=taps).mean()
    found = loss(llm.params, jnp.asarray(PROMPT), config=CONFIG, taps=taps)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(expected - nats_by_hand(llm, PROMPT).mean()) > 1e-2


def test_the_gradient_to_the_weights_is_the_slope(llm):
    value, gradient = loss_and_gradient(llm.params, TOKENS)
    np.testing.assert_allclose(value, loss_of(llm.params, TOKENS), rtol=1e-6)
    leaves, structure = jax.tree_util.tree_flatten(llm.params)
    noise = [random(*x.shape, seed=i) * np.abs(x).mean() for i, x in enumerate(leaves)]
    directions = (jax.tree_util.tree_unflatten(structure, noise), gradient)
    for direction in directions:
        step = 2e-3 / max(float(jnp.abs(x).max()) for x in jax.tree_util.tree_leaves(direction))
        ends = [
            loss_of(jax.tree_util.tree_map(lambda p, d: p + s * d, llm.params, direction), TOKENS)  # noqa: B023
            for s in (-step, step)
        ]
        products = jax.tree_util.tree_map(lambda g, d: (g * d).sum(), gradient, direction)
        slope = sum(map(float, jax.tree_util.tree_leaves(products)))
        assert abs(slope) > 1e-2
        np.testing.assert_allclose((ends[1] - ends[0]) / (2 * step), slope, rtol=1e-2)


def test_remat_gives_the_same_gradients(llm):
    plain, again = (loss_and_gradient(llm.params, TOKENS, remat=r)[1] for r in (False, True))
    jax.tree_util.tree_map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), again, plain)


def test_remat_keeps_less_for_the_gradient(llm):
    def kept_bytes(remat):
        def keep(params):
            pull_back = jax.vjp(lambda p: of_texts(p, TOKENS, remat=remat), params)[1]
            return jax.tree_util.tree_leaves(pull_back)

        jaxpr = jax.make_jaxpr(keep)(llm.params).jaxpr
        given = {id(x) for x in jaxpr.invars}
        kept = {id(x): x.aval for x in jaxpr.outvars if id(x) not in given}
        return sum(x.size * x.dtype.itemsize for x in kept.values())

    assert kept_bytes(True) < kept_bytes(False) / 4


def test_the_gradient_to_edits_is_that_of_their_floats(llm):
    def of_taps(taps):
        return loss_of(llm.params, TOKENS, taps=taps)

    def steered(vector):
        return fj.edits.steer(vector, 0, positions=[1, 2]) + fj.edits.ablate_heads([(1, 0)])

    vector, direction = random(16), random(16, seed=1)
    value, gradient = value_and_float_grad(of_taps)(steered(vector))
    edit = gradient.edits["resid_post"][0]
    assert edit.layers is None
    assert edit.positions is None
    assert gradient.edits["z"][0].values["units"] is None
    ends = [of_taps(steered(vector + s * direction)) for s in (-1e-2, 1e-2)]
    slope = float((edit.values["vector"][0] * direction).sum())
    np.testing.assert_allclose((ends[1] - ends[0]) / 2e-2, slope, rtol=1e-2)
    np.testing.assert_allclose(value, of_taps(steered(vector)), rtol=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "median"}, r"reduction is 'median'; choose one of mean, sum, none"),
        ({"tokens": jnp.asarray([3])}, r"tokens has shape \(1,\).*at least two"),
        ({"mask": jnp.ones(5)}, r"mask has shape \(5,\) for 6 tokens"),
        ({"positions": jnp.arange(7)}, r"positions has shape \(7,\) for 6 tokens"),
    ],
)
def test_wrong_arguments_say_so(llm, change, message):
    arguments = {"tokens": jnp.asarray(PROMPT), "config": CONFIG} | change
    with pytest.raises(fj.RequestError, match=message):
        loss(llm.params, **arguments)
