"""Gradients of paged attention against jax's own of its statement in jnp."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import paged_attention, paged_attention_reference
from tests.kernels.cases import SCALE, make_case
from tests.kernels.test_paged_attention import MIXED, SMALL_SPLITS
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = [allow_deprecated, pytest.mark.one_jax]
CASES = {
    "gqa, window, soft cap, sinks": {
        "heads": (4, 2, 24),
        "rows": MIXED,
        "padding": 3,
        "window": 9,
        "page": 8,
        "soft_cap": 1.5,
        "sinks": True,
    },
    "chunk, alibi": {"heads": (4, 4, 16), "rows": MIXED, "chunk": 16, "alibi": True},
    "latent": {
        "heads": (4, 1, 40),
        "rows": ((40, 300), (1, 20), (0, 0)),
        "value_dim": 24,
        "in_keys": True,
    },
    "decodes": {"heads": (2, 1, 16), "rows": ((1, 3), (1, 40), (1, 17)), "sinks": True},
}


def differentiable(case):
    """A function of what has a gradient, and that: queries, pages and sinks."""
    q, k_pages, v_pages, *layout = case.arrays
    # An unused slot's nan has a gradient of zero times nan in the statement: here they are zeros.
    given = {"q": q, "k": jnp.nan_to_num(k_pages)}
    given |= {} if v_pages is None else {"v": jnp.nan_to_num(v_pages)}
    rest = dict(case.options)
    if "sinks" in rest:
        given["sinks"] = rest.pop("sinks")
    V = k_pages.shape[-1] if "value_dim" not in rest else rest["value_dim"]
    aim = jax.random.normal(jax.random.key(1), (*q.shape[:2], V))
    aim_lse = jax.random.normal(jax.random.key(2), q.shape[:2])

    def loss(attend, given, **options):
        more = {"sinks": given["sinks"]} if "sinks" in given else {}
        out, lse = attend(
            given["q"],
            given["k"],
            given.get("v"),
            *layout,
            scale=SCALE,
            return_lse=True,
            **rest,
            **more,
            **options,
        )
        return jnp.sum(out * aim) + jnp.sum(jnp.where(jnp.isfinite(lse), lse, 0) * aim_lse)

    return loss, given


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_reference(name):
    loss, given = differentiable(make_case(**CASES[name]))
    options = {"interpret": True, "tuning": SMALL_SPLITS}
    got = jax.grad(lambda x: loss(paged_attention, x, **options))(given)
    want = jax.grad(lambda x: loss(paged_attention_reference, x))(given)
    assert set(got) == set(want)
    for key in got:
        assert np.any(np.asarray(want[key]))
        np.testing.assert_allclose(got[key], want[key], rtol=1e-4, atol=2e-5, err_msg=key)


@needs_triton
def test_no_page_that_is_not_read_gets_a_gradient():
    """Poison stays where it is: the gradient of what nobody reads is zero."""
    case = make_case(heads=(2, 1, 16), rows=((3, 20), (1, 9)), page=8, window=6)
    q, k_pages, *rest = case.arrays

    def loss(k_pages):
        return jnp.sum(case_with(case, q, k_pages, rest).run(paged_attention, interpret=True) ** 2)

    gradient = np.asarray(jax.grad(loss)(k_pages))
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient)
    assert not np.any(gradient[np.isnan(np.asarray(k_pages))])


def case_with(case, q, k_pages, rest):
    return type(case)((q, k_pages, *rest), case.options)


@needs_triton
def test_quantised_pages_pass_the_gradient_of_the_queries_on():
    case = make_case(heads=(2, 1, 16), rows=((3, 20), (1, 9)), kv_dtype=jnp.int8)
    q, *rest = case.arrays

    def loss(attend, **options):
        def of(q):
            return jnp.sum(type(case)((q, *rest), case.options).run(attend, **options) ** 2)

        return jax.grad(of)(q)

    got = loss(paged_attention, interpret=True)
    want = loss(paged_attention_reference)
    assert np.any(np.asarray(want))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
