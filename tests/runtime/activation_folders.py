"""Folders of activations of three small prompts, for the tests that write and read them."""

from __future__ import annotations

import numpy as np

from ferrum_jax.runtime.activations import ActivationWriter

RNG = np.random.default_rng(0)
FIRST = "part-00000.safetensors"


def prompt(length, start=0, dtype=np.float32):
    """Token ids, values of two sites and two layers, and positions, as `add` takes them."""
    shapes = {"resid_post": (length - start, 8), "z": (length - start, 2, 3)}
    values = {
        site: {layer: RNG.normal(size=shape).astype(dtype) for layer in (3, 4)}
        for site, shape in shapes.items()
    }
    return RNG.integers(0, 99, length), values, np.arange(start, length)


PROMPTS = [prompt(length) for length in (4, 1, 7)]


def writer(path, **options):
    return ActivationWriter(path, **{"sites": ("resid_post", "z"), "layers": (3, 4)} | options)


def write(path, prompts=PROMPTS, order=None, **options):
    with writer(path, **options) as folder:
        for i in range(len(prompts)) if order is None else order:
            folder.add(i, *prompts[i])
    return path


def assert_held(acts, prompts=PROMPTS):
    assert len(acts) == len(prompts)
    for i, (token_ids, values, positions) in enumerate(prompts):
        np.testing.assert_array_equal(acts.token_ids[i], token_ids)
        np.testing.assert_array_equal(acts.positions[i], positions)
        assert acts[i].keys() == values.keys()
        for site, layers in values.items():
            assert acts[i][site].keys() == layers.keys()
            for layer, x in layers.items():
                np.testing.assert_array_equal(acts[i][site][layer], x)
