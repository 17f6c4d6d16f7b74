"""Forced and repeated routing, for every kind of router: against a forward that is given its
experts."""

from __future__ import annotations

from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import moe
from ferrum_jax.models.families import read_config
from ferrum_jax.types import RouterKind
from tests.parity.golden import case_names, load_case, write_checkpoint

ENGINE = fj.EngineConfig(page_size=4, num_pages=24, max_num_seqs=2, max_num_batched_tokens=16)
LENGTHS = (21, 21, 14)
"""Of the text that is forced, of the one whose routing it takes, and of its neighbour."""
SITES = ("router", "expert_weights", "logits")
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def kind_of(spec):
    """What distinguishes the routing of a layer."""
    sparse = spec.sparse
    return (
        sparse.router,
        sparse.groups > 1 and sparse.group_score,
        sparse.choice_bias,
        sparse.norm_topk,
        sparse.weights_scale_input,
        spec.experts_beside is not None,
        sparse.latent_size is not None,
    )


def cases():
    """The first case of every kind of router."""
    found = {}
    for name in case_names():
        for spec in read_config(load_case(name).config).layers:
            if spec.sparse is not None:
                found.setdefault(kind_of(spec), name)
    return sorted(set(found.values()))


@partial(jax.jit, static_argnames="config")
def _given(params, tokens, routing, *, config):
    """Logits of a dense forward whose layers have the routing `[T, E]` that they are given."""
    left = list(routing)

    def choose(logits, p, spec):
        weights = left.pop(0)
        _, experts = jax.lax.top_k(jnp.abs(weights), spec.experts_per_token)
        return jnp.take_along_axis(weights, experts, axis=1), experts

    index = jnp.arange(tokens.shape[0])
    with mock.patch.object(moe, "choose_experts", choose):
        hidden, _ = fj.forward(
            params, tokens, index, None, config=config, attend=fj.dense_attention
        )
    assert not left
    return fj.unembed(params, hidden, config)


class Routed:
    """A model's engine, its texts, and what each captures alone."""

    def __init__(self, name, directory):
        self.llm = fj.LLM.load(write_checkpoint(load_case(name), directory), engine=ENGINE)
        self.config = self.llm.config
        self.layers = [i for i, spec in enumerate(self.config.layers) if spec.sparse is not None]
        rng = np.random.default_rng(5)
        self.texts = [rng.integers(0, self.config.vocab_size, n).tolist() for n in LENGTHS]
        self.plain = self.llm.capture(self.texts, SITES)

    @property
    def count(self):
        """Experts of a token."""
        return self.sparse(self.layers[0]).experts_per_token

    def sparse(self, layer):
        return self.config.layers[layer].sparse

    def repeat(self, site):
        """The second text's routing, in all layers."""
        found = self.plain[1][site]
        return sum((fj.edits.patch(found[i], i, site=site) for i in self.layers), fj.Taps())

    def run(self, taps):
        """The first text with edits, beside one without."""
        forced, beside = self.llm.capture([self.texts[0], self.texts[2]], SITES, taps=[taps, None])
        for site in SITES:
            for layer, x in self.plain[2][site].items():
                close(beside[site][layer], x)
        routing = [jnp.asarray(forced["expert_weights"][i]) for i in self.layers]
        tokens = jnp.asarray(self.texts[0])
        logits = _given(self.llm.params, tokens, routing, config=self.config)
        close(forced["logits"][self.config.num_layers], logits)
        change = np.abs(logits - self.plain[0]["logits"][self.config.num_layers])
        assert change.max() > 1e-2
        return forced

    def check_repeated(self):
        for site in ("expert_weights", "router"):
            forced = self.run(self.repeat(site))
            for layer in self.layers:
                close(forced["expert_weights"][layer], self.plain[1]["expert_weights"][layer])

    def check_forced(self):
        """Experts far from one another: of more groups than would take part."""
        last = self.sparse(self.layers[0]).num_experts - 1
        experts = sorted({round(i) for i in np.linspace(0, last, self.count)})
        assert len(experts) == self.count
        forced = self.run(fj.edits.force_router(experts))
        for layer in self.layers:
            weights, logits = forced["expert_weights"][layer], forced["router"][layer]
            assert np.all(np.count_nonzero(weights, axis=1) == len(experts))
            close(weights[:, experts], self.weighed(layer, logits[:, experts], experts))

    def weighed(self, layer, logits, experts):
        """The weights of experts that are the only ones there."""
        sparse, p = self.sparse(layer), self.llm.params.layers[layer]
        p = p.mlp if p.experts_beside is None else p.experts_beside
        logits = logits.astype(np.float64)
        if sparse.router is RouterKind.SPARSE_MIXER:
            return sparse_mixer(logits, sparse.router_jitter)
        softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax /= softmax.sum(axis=1, keepdims=True)
        weights = 1 / (1 + np.exp(-logits)) if sparse.router is RouterKind.SIGMOID else softmax
        if sparse.norm_topk and sparse.router is not RouterKind.SOFTMAX_OF_CHOSEN:
            total = weights.sum(axis=1, keepdims=True) + sparse.norm_eps
            weights = weights / np.maximum(total, sparse.norm_floor)
        weights = weights * sparse.weight_scale
        if p.expert_scale is None:
            return weights
        return weights * np.asarray(p.expert_scale, np.float64)[experts]


def sparse_mixer(logits, jitter):
    """Of two experts: the larger among those not far below it, then the other alone."""
    weights = np.ones_like(logits)
    for row, values in zip(weights, logits, strict=True):
        best, other = np.argsort(-values)
        far = (values[best] - values[other]) / max(abs(values[other]), values[best]) > 2 * jitter
        row[best] = 1.0 if far else 1 / (1 + np.exp(values[other] - values[best]))
    return weights


@pytest.mark.every_case
@pytest.mark.parametrize("name", cases())
def test_routing_is_repeated_and_forced(name, tmp_path):
    routed = Routed(name, tmp_path)
    everything = routed.repeat("expert_weights") + routed.repeat("router")
    # One program serves all that follows.
    routed.llm.capture(
        routed.texts[:1], SITES, taps=everything + fj.edits.force_router(range(routed.count))
    )
    routed.check_repeated()
    routed.check_forced()


def test_every_kind_of_router_is_there():
    kinds = {
        spec.sparse.router
        for name in cases()
        for spec in read_config(load_case(name).config).layers
        if spec.sparse is not None
    }
    assert kinds == set(RouterKind)
