"""Rows times the matrix of their group: against one product per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.models.grouped import (
    _in_tiles,
    _masked,
    group_rows,
    grouped_matmul,
    share_of,
    tile_size,
)

SIZES = [(1, 4), (8, 3), (50, 7), (200, 3), (6, 64)]
"""Rows and groups: a row alone, groups without rows, groups of several tiles."""


def drawn(num_rows, num_groups):
    rng = np.random.default_rng(num_rows)
    group = np.sort(rng.choice(num_groups, num_rows, p=rng.dirichlet(np.ones(num_groups))))
    rows = rng.standard_normal((num_rows, 5), np.float32)
    matrices = rng.standard_normal((num_groups, 5, 6), np.float32)
    return jnp.asarray(rows), jnp.asarray(matrices), jnp.asarray(group, jnp.int32)


def by_row(rows, matrices, group):
    return jnp.einsum("YD,YDF->YF", rows, matrices[group])


@pytest.mark.parametrize(("num_rows", "num_groups"), SIZES)
def test_values_and_derivatives(num_rows, num_groups):
    rows, matrices, group = drawn(num_rows, num_groups)

    def ours(rows, matrices):
        return grouped_matmul(rows, matrices, group_rows(group, num_groups))

    @jax.jit
    def both(rows, matrices):
        def losses(product):
            return jax.value_and_grad(lambda r, m: jnp.sum(jnp.sin(product(r, m))), argnums=(0, 1))

        one = losses(ours)(rows, matrices)
        return one, losses(lambda r, m: by_row(r, m, group))(rows, matrices)

    np.testing.assert_allclose(ours(rows, matrices), by_row(rows, matrices, group), atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *both(rows, matrices))
    direction = jnp.cos(matrices)
    _, change = jax.jvp(lambda m: ours(rows, m), (matrices,), (direction,))
    np.testing.assert_allclose(change, by_row(rows, direction, group), atol=1e-5)


@pytest.mark.parametrize("tile", [1, 2, 8, 64])
def test_tiles_of_any_size_and_no_tiles(tile):
    rows, matrices, group = drawn(50, 7)
    groups = group_rows(group, 7, tile=tile)
    expected = by_row(rows, matrices, group)
    np.testing.assert_allclose(grouped_matmul(rows, matrices, groups), expected, atol=1e-5)
    np.testing.assert_allclose(_masked(rows, matrices, groups), expected, atol=1e-5)


@pytest.mark.parametrize("product", [_in_tiles, _masked])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_the_groups_add_up(product, count):
    """Each share gives its own rows and zeros in the others', as devices of a mesh do."""
    rows, matrices, group = drawn(50, 6)
    groups, expected = group_rows(group, 6), by_row(rows, matrices, group)
    for first in range(0, 6, count):
        share = share_of(groups, first, count)
        found = product(rows, matrices[first : first + count], share)
        is_own = (group >= first) & (group < first + count)
        own = jnp.where(is_own[:, None], expected, 0)
        np.testing.assert_allclose(found, own, atol=1e-5)


def test_a_tile_holds_what_a_group_has_on_average():
    assert [tile_size(*sizes) for sizes in ((8, 64), (64, 64), (65, 64), (1024, 64))] == [
        1,
        1,
        2,
        16,
    ]
    assert tile_size(10**6, 8) == 64


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(("num_rows", "num_groups"), [(32, 8), (32, 2), (64, 8), (128, 8)])
def test_a_row_has_the_same_bits_wherever_it_stands(num_rows, num_groups):
    rng = np.random.default_rng(0)
    matrices = jnp.asarray(rng.standard_normal((num_groups, 64, 96)), jnp.float32)
    rows = jnp.asarray(np.tile(rng.standard_normal(64, np.float32), (num_rows, 1)))

    @jax.jit
    def product(group):
        return grouped_matmul(rows, matrices, group_rows(group, num_groups))

    seen = {}
    for _ in range(8):
        group = np.sort(rng.integers(num_groups, size=num_rows)).astype(np.int32)
        for index, row in zip(group, np.asarray(product(group)), strict=True):
            assert seen.setdefault(index, row.tobytes()) == row.tobytes()
