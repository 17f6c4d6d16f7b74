"""What stands for a variant, what it is called, and how it is described."""

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.sweep import Variant, grid
from ferrum_jax.research.sweep.describe import describe
from ferrum_jax.research.sweep.variant import as_variant, named_variants, setting_of
from tests.runtime.models import make_llm


def keys(variants, llm):
    return [named.key for named in named_variants(variants, llm)[0]]


def test_the_baseline_comes_first_and_is_added_where_there_is_none(llm):
    assert keys({"a": {"page_size": 4}, "none": None}, llm) == [("none",), ("a",)]
    assert keys({"a": {"page_size": 4}}, llm) == [("baseline",), ("a",)]
    assert keys([None, {"page_size": 4}], llm) == [("baseline",), ("page_size 4",)]


def test_a_grid_is_the_product_of_its_axes_in_their_order(llm):
    made = grid(lambda layer, head: fj.edits.ablate_heads([(layer, head)]), layer=(0, 1), head=(2,))
    assert list(made) == [(0, 2), (1, 2)]
    np.testing.assert_array_equal(made[1, 2].edits["z"][0].values["units"][0], [[1, 2]])
    named, axes = named_variants(made, llm)
    assert axes == {"layer": (0, 1), "head": (2,)}
    assert [n.key for n in named] == [("baseline",), (0, 2), (1, 2)]
    assert repr(made) == "Grid(2 layer x 1 head)"


def test_numbers_of_numpy_name_what_pythons_do():
    made = grid(lambda scale: None, scale=np.array([0.5, 1.0]))
    assert [type(key[0]) for key in made] == [float, float]
    assert made[0.5,] is None


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({}, "at least one axis"),
        ({"layer": []}, "axis layer is empty"),
        ({"layer": [1, 1]}, "axis layer repeats"),
        ({"layer": "abc"}, "axis layer is 'abc'"),
        ({"layer": 3}, "axis layer is 3"),
        ({"layer": [object()]}, "names a variant"),
    ],
)
def test_a_wrong_axis_is_refused(axes, says):
    with pytest.raises(fj.RequestError, match=says):
        grid(lambda **_: None, **axes)


@pytest.mark.parametrize("variants", [{}, [], "abc", 3])
def test_no_variants_are_refused(variants, llm):
    with pytest.raises(fj.RequestError, match="variants"):
        named_variants(variants, llm)


def test_what_is_no_variant_is_refused_with_what_would_be(llm):
    with pytest.raises(fj.RequestError, match=r"3 \(int\) is no variant; give a ModelConfig"):
        named_variants({"a": 3}, llm)
    with pytest.raises(fj.RequestError, match=r"Variant\.taps is 3"):
        Variant(taps=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variants",
    [
        {1: {"page_size": 4}, "1": {"page_size": 2}},
        [{"page_size": 4}, {"page_size": 4}],
        {"baseline": {"page_size": 4}},
    ],
)
def test_two_of_one_name_are_refused(variants, llm):
    with pytest.raises(fj.RequestError, match="two variants are named"):
        named_variants(variants, llm)


def test_each_part_is_recognised(llm):
    taps = fj.edits.ablate_mlp(0)
    assert as_variant(None).is_baseline
    assert as_variant(llm.config).config is llm.config
    assert as_variant(taps).taps is taps
    assert as_variant(llm.engine_config).engine is llm.engine_config
    assert as_variant(llm).llm is llm
    both = Variant(taps=taps, engine={"page_size": 4})
    assert as_variant(both) is both


def test_settings_resolve_against_the_model_that_they_change(llm):
    other = make_llm("moe", fj.EngineConfig(page_size=4))
    assert setting_of(Variant(), llm).is_source
    assert setting_of(Variant(config=llm.config), llm).is_source
    changed = setting_of(Variant(engine={"max_num_seqs": 3}), llm)
    assert not changed.is_source
    assert changed.engine.max_num_seqs == 3
    assert changed.engine.page_size == llm.engine_config.page_size
    another = setting_of(Variant(llm=other, engine={"max_num_seqs": 3}), llm)
    assert (another.source, another.config) == (other, other.config)
    assert another.engine.page_size == 4


def test_a_wrong_engine_field_is_named(llm):
    with pytest.raises(fj.ConfigError, match=r"no field 'pagesize'.*page_size"):
        setting_of(Variant(engine={"pagesize": 4}), llm)
    with pytest.raises(fj.ConfigError, match="page_size is 0"):
        setting_of(Variant(engine={"page_size": 0}), llm)


def test_descriptions_say_what_changes(llm):
    config = fj.edit_layers(llm.config, activation="gelu_tanh")
    config = fj.edit_layers(config, layers=[1], window=4)
    assert describe(Variant(config=config), llm) == (
        "layers 0-1: activation silu -> gelu_tanh; layer 1: window None -> 4"
    )
    assert describe(Variant(engine={"page_size": 4, "num_pages": 80}), llm) == "page_size 4"
    assert describe(Variant(taps=fj.edits.ablate_heads([(1, 2)])), llm) == (
        "z: SetUnits(head), units [[1, 2]], layer 1"
    )
    steered = Variant(taps=fj.edits.scale("mlp_out", 0.5), engine={"page_size": 4})
    assert describe(steered, llm) == "page_size 4; mlp_out: Multiply, factor 0.5, all layers"
    other = make_llm("moe", fj.EngineConfig())
    assert describe(Variant(llm=other), llm) == "llama of 2 layers"
    assert describe(Variant(), llm) == "baseline"


def test_large_arrays_are_described_by_their_shape(llm):
    taps = fj.edits.steer(np.ones(64, np.float32), 1)
    assert "float32[64]" in describe(Variant(taps=taps), llm)
