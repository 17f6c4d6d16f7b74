"""Where models with recurrent layers part."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.compare.parting import measure_parting
from ferrum_jax.research.compare.side import ModelSide
from tests.research.architectures import load, prompt

pytestmark = pytest.mark.every_case


def test_a_recurrent_model_parts_where_it_is_changed():
    llm = load("mamba")
    changed = ModelSide(llm, fj.edits.scale("mixer_out", 1.1, layers=1))
    found = measure_parting(ModelSide(llm), changed, [tuple(prompt(llm))])
    assert found.first == (1, "mixer_out")
    assert found.sites == ("resid_pre", "mixer_out", "resid_post")
    assert not np.any(np.asarray(found.errors)[:, 0])


def test_sites_of_one_model_alone_are_left_out():
    """Models of one width and depth, whose layers are of other kinds."""
    a, b = (ModelSide(load(name)) for name in ("nemotron_h", "olmo3"))
    ids = tuple(min(i, 90) for i in prompt(a.llm))
    found = measure_parting(a, b, [ids])
    assert (a.llm.config.num_layers, b.llm.config.num_layers) == (4, 4)
    assert "mixer_out" not in found.sites
    present = ~np.isnan(np.asarray(found.errors))
    for site, row in zip(found.sites, present, strict=True):
        both = [
            site.startswith("resid")
            or (site == "attn_out" and spec.attention is not None)
            or (site == "mlp_out" and spec.mlp is not None)
            for spec in a.llm.config.layers
        ]
        assert row.tolist() == both
