"""Every site of every model type: the engine captures there, and lets an edit do there, what the
dense forward does."""

from __future__ import annotations

from functools import partial
from types import NoneType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.families import read_config
from ferrum_jax.models.sites import site_shape
from ferrum_jax.runtime.taps.lanes import plan_of, stack_taps
from ferrum_jax.types import SITES, Place
from tests.parity.golden import KINDS, case_names, load_case, write_checkpoint

pytestmark = pytest.mark.every_case

ENGINE = fj.EngineConfig(page_size=4, num_pages=24, max_num_seqs=2, max_num_batched_tokens=16)
LENGTHS = (21, 14)
"""Steps of 16 tokens of the first text, of 5 and 11 of both, and of 3 of the second: one program
runs all of them."""
FROM = 3
"""The first position where an edit acts."""
TOLERANCE = 1e-5
"""Largest difference between the engine and the dense forward, of the size of the activation where
that is above one."""
UNTOUCHED = 1e-6
"""The same where nothing was edited."""
SEEN = 1e-2
"""What an edit changes of the logits at least."""
OTHER_PATHS = ("pattern", "state")
"""Sites for which attention forms its weights, and recurrences go token by token."""
BESIDE = ("falcon", "gemma4_text_shared", "stablelm_parallel")
"""Cases beside one of each type: blocks in parallel, keys and values of another layer."""


def bend(x, factor):
    """No multiple of x, so that neither a norm nor a softmax takes it away again."""
    return x * (1 + factor * (jnp.arange(x.shape[-1]) % 3))


def places(config):
    """By site the layers that have it."""
    layers = range(config.num_layers + 1)
    found = {site: [i for i in layers if site_shape(config, site, i)] for site in SITES}
    return {site: layers for site, layers in found.items() if layers}


def config_of(name):
    return read_config(load_case(name).config)


def best_cases():
    """Of each model type the case that has most sites, and most kinds of layers."""
    best = {}
    for name in case_names():
        config = config_of(name)
        rank = len(places(config)), len(set(config.layers))
        model_type = load_case(name).model_type
        if model_type not in best or rank > best[model_type][0]:
            best[model_type] = rank, name
    return {model_type: name for model_type, (_, name) in best.items()}


def first_of_each_mixer():
    """A case for every kind of attention and of recurrence."""
    found = {}
    for name in best_cases().values():
        for spec in config_of(name).layers:
            for block in (spec.attention, spec.recurrent):
                found.setdefault(type(block), name)
    return sorted({name for kind, name in found.items() if kind is not NoneType})


def edit_at(site, layer=None):
    layers = None if site == "logits" else layer
    return fj.edits.custom(site, bend, 0.25, layers=layers, positions=slice(FROM, None))


@partial(jax.jit, static_argnames="config")
def _captured(params, tokens, count, taps, *, config):
    index = jnp.arange(max(LENGTHS))
    taps = taps.replace(place=Place(0 * index, index, jnp.full_like(index, count)))
    return fj.forward_capture(
        params, tokens, index, None, config=config, attend=fj.dense_attention, taps=taps
    )[2]


class Both:
    """A model's engine and its dense forward: one program each, which captures and edits the given
    sites, all but `without`."""

    def __init__(self, name, directory, without=()):
        self.llm = fj.LLM.load(write_checkpoint(load_case(name), directory), engine=ENGINE)
        self.config = self.llm.engine.config
        has = places(self.config)
        self.places = {site: layers for site, layers in has.items() if site not in without}
        self.sites = tuple(self.places)
        every = sum((edit_at(site, layers[0]) for site, layers in self.places.items()), fj.Taps())
        self._plan = plan_of(every + fj.Taps(capture=self.sites))
        rng = np.random.default_rng(7)
        self.texts = [rng.integers(0, self.config.vocab_size, n).tolist() for n in LENGTHS]
        # The program of all edits then serves each of them.
        self.engine([every, None])
        self.plain = self.engine([None, None])
        assert self.plain[0].keys() == self.places.keys()

    def engine(self, taps):
        return self.llm.capture(self.texts, self.sites, taps=taps)

    def dense(self, which, taps=None):
        text = self.texts[which]
        tokens = jnp.asarray(text + [0] * (max(LENGTHS) - len(text)))
        taps = stack_taps(self._plan, {} if taps is None else {0: taps}, 1)
        found = _captured(self.llm.params, tokens, len(text), taps, config=self.config)
        found = jax.tree.map(lambda x: np.asarray(x)[: len(text)], found)
        patterns = found.get("pattern", {})
        return found | {"pattern": {i: x[..., : len(text)] for i, x in patterns.items()}}

    def logits(self, found):
        return found["logits"][self.config.num_layers]

    def check(self, found, expected, tolerance, what):
        for site, layers in self.places.items():
            assert sorted(found[site]) == sorted(expected[site]) == layers, site
            for layer in layers:
                got, wanted = found[site][layer], expected[site][layer]
                shape = site_shape(self.config, site, layer)
                assert got.shape == wanted.shape
                assert all(a in (-1, b) for a, b in zip(shape, got.shape[1:], strict=True))
                error = np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())
                assert error < tolerance, f"{what}: {site} of layer {layer} is off by {error:.1e}"

    def check_edit(self, site, layer):
        """One request of two is edited, and is what an edited dense forward is; the other is not,
        and is what it is alone."""
        what, taps = f"{site} of layer {layer} edited", edit_at(site, layer)
        edited, other = self.engine([taps, None])
        self.check(edited, self.dense(0, taps), TOLERANCE, what)
        self.check(other, self.plain[1], UNTOUCHED, f"{what} in another request")
        change = np.abs(self.logits(edited) - self.logits(self.plain[0]))
        assert change.max() > SEEN, what
        assert change[:FROM].max() < UNTOUCHED, f"{what}: earlier tokens changed"

    def check_all(self):
        dense = [self.dense(which) for which in range(2)]
        for found, expected in zip(self.plain, dense, strict=True):
            self.check(found, expected, TOLERANCE, "unedited")
        for site, layers in self.places.items():
            # Of layers that are alike the last.
            kinds = [None if site == "logits" else self.config.layers[i] for i in layers]
            for layer in dict(zip(kinds, layers, strict=True)).values():
                self.check_edit(site, layer)


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=() if model_type in KINDS else pytest.mark.thorough)
            for model_type, name in best_cases().items()
        ),
        *BESIDE,
    ],
)
def test_every_site_is_read_and_edited_as_in_the_dense_forward(name, tmp_path):
    Both(name, tmp_path).check_all()


@pytest.mark.parametrize("name", first_of_each_mixer())
def test_so_are_those_that_leave_the_program_as_it_is(name, tmp_path):
    Both(name, tmp_path, without=OTHER_PATHS).check_all()


def test_no_site_of_any_type_is_left_out():
    chosen = best_cases()
    checked = {model_type: places(config_of(name)).keys() for model_type, name in chosen.items()}
    for name in case_names():
        missing = places(config_of(name)).keys() - checked[load_case(name).model_type]
        assert not missing, f"{name} has {missing}, and {chosen[load_case(name).model_type]} not"
    assert set().union(*checked.values()) == set(SITES)
