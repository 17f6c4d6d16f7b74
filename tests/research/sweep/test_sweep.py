"""Sweeps of a tiny model against models that were changed by hand."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.research.sweep import SweepTable, Variant, grid, kl_from_baseline, nll, sweep
from ferrum_jax.research.sweep.variant import Setting
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.record import weights_digest
from tests.research.sweep.conftest import ENGINE
from tests.research.sweep.test_metrics import logprobs
from tests.runtime.models import make_llm, model

HEADS = [(layer, head) for layer in range(2) for head in range(4)]


def quiet(llm, variants, metric, **options):
    return sweep(llm, variants, metric, progress=False, **options)


def head_grid(layers=2, heads=4):
    def ablate(layer, head):
        return fj.edits.ablate_heads([(layer, head)])

    return grid(ablate, layer=range(layers), head=range(heads))


def without_head(llm, layer, head):
    """The model whose output projection has no rows for a head."""
    params = llm.params
    attention = params.layers[layer].attention
    cut = attention.replace(o=attention.o.at[head].set(0.0))
    layers = list(params.layers)
    layers[layer] = layers[layer].replace(attention=cut)
    return fj.LLM(llm.config, params.replace(layers=tuple(layers)), engine=llm.engine_config)


def nats_by_hand(llm, documents):
    return np.concatenate([-logprobs(llm, ids) for ids in documents]).mean()


@pytest.fixture(scope="module")
def table(llm, documents):
    return quiet(llm, head_grid(), nll(documents))


@pytest.mark.parametrize("place", HEADS)
def test_an_ablated_head_changes_what_cutting_its_weights_does(table, llm, documents, place):
    changed = nats_by_hand(without_head(llm, *place), documents)
    row = table[place]
    assert row.value == pytest.approx(changed, abs=1e-5)
    assert row.difference == pytest.approx(changed - nats_by_hand(llm, documents), abs=1e-5)
    assert row.difference_error > 0
    assert row.name == f"layer {place[0]}, head {place[1]}"


def test_rows_say_what_they_are_and_the_table_what_measured_them(table, llm, documents):
    assert table.baseline.name == "baseline"
    assert table.baseline.value == pytest.approx(nats_by_hand(llm, documents), abs=1e-5)
    assert (table.baseline.difference, table.baseline.difference_error) == (0.0, 0.0)
    assert (table.metric, table.unit, table.seed) == ("nll", "nats/token", None)
    assert table.weights == weights_digest(llm.params)
    assert table.config["layers"][1]["attention"]["num_heads"] == 4
    assert table.engine["page_size"] == 8
    assert table.runs[0]["versions"]["jax"] == jax.__version__
    assert table.runs[0]["device"]["kind"] == device_info().kind
    row = table[1, 3]
    assert row.variant == "z: SetUnits(head), units [[1, 3]], layer 1"
    assert (row.num_documents, row.num_tokens) == (3, 25)
    assert row.seconds > 0


def test_many_ablations_compile_what_two_do(documents):
    llm = make_llm("dense", ENGINE)
    quiet(llm, head_grid(1, 2), nll(documents))
    compiled = len(llm.compilations)
    quiet(llm, head_grid(), nll(documents))
    assert len(llm.compilations) == compiled


def test_edits_of_one_kind_are_scored_as_one_batch(llm, documents, monkeypatch):
    sizes, score = [], llm.score

    def counted(texts, **options):
        sizes.append(len(texts))
        return score(texts, **options)

    monkeypatch.setattr(llm, "score", counted)
    mixed = {**head_grid(), "mlp": fj.edits.ablate_mlp(0)}
    quiet(llm, mixed, nll(documents))
    assert sizes == [3, 8 * 3, 3]
    sizes.clear()
    quiet(llm, head_grid(), nll(documents), max_requests=10)
    assert sizes == [3, 9, 9, 6]


def test_a_queue_that_is_bounded_bounds_the_batch(documents):
    llm = make_llm("dense", replace(ENGINE, max_waiting=6))
    found = quiet(llm, head_grid(1, 3), nll(documents))
    assert all(row.failure is None for row in found.rows)


def test_configs_and_settings_are_measured_on_models_of_their_own(llm, documents, monkeypatch):
    made = []
    make = Setting.make

    def counted(setting):
        made.append(make(setting))
        return made[-1]

    monkeypatch.setattr(Setting, "make", counted)
    relu = fj.edit_layers(llm.config, activation="relu")
    edit = fj.edits.ablate_mlp(1)
    variants = {
        "relu": relu,
        "relu and edit": Variant(config=relu, taps=edit),
        "int8": {"kv_dtype": "int8"},
        "same": llm.config,
    }
    found = quiet(llm, variants, nll(documents))
    assert [x.config == relu for x in made] == [True, False]
    assert made[1].engine_config == replace(llm.engine_config, kv_dtype="int8")
    assert all(x._engine is None for x in made)  # closed
    assert llm._engine is not None  # the caller's own is not
    by_hand = nats_by_hand(llm.with_config(relu), documents)
    assert found["relu"].value == pytest.approx(by_hand, abs=1e-5)
    cut = fj.edit_layers(llm.config, activation="relu")
    flat = llm.params.layers[1].mlp
    silent = llm.params.replace(
        layers=(
            llm.params.layers[0],
            llm.params.layers[1].replace(mlp=flat.replace(down=flat.down * 0)),
        )
    )
    by_hand = nats_by_hand(fj.LLM(cut, silent, engine=llm.engine_config), documents)
    assert found["relu and edit"].value == pytest.approx(by_hand, abs=1e-5)
    assert 0 < abs(found["int8"].difference) < 0.05
    assert found["same"].difference == 0


def test_another_model_is_a_variant(llm, documents):
    config = model("windowed")
    other = fj.LLM(config, init_params(config, seed=9), engine=ENGINE)
    found = quiet(llm, {"other": other}, nll(documents))
    assert found["other"].value == pytest.approx(nats_by_hand(other, documents), abs=1e-5)
    other.close()


def test_the_baseline_diverges_from_itself_by_nothing(llm, documents):
    variants = {"edit": fj.edits.ablate_mlp(0), "int8": {"kv_dtype": "int8"}}
    found = quiet(llm, variants, kl_from_baseline(documents))
    assert (found.metric, found.unit) == ("kl_from_baseline", "nats/token")
    assert (found.baseline.value, found.baseline.error) == (0, 0)
    assert found["edit"].difference > found["int8"].difference > 0


def test_divergences_from_another_baseline_are_not_continued(llm, documents, tmp_path):
    options = {"path": tmp_path / "results.json"}
    quiet(llm, {"edit": fj.edits.ablate_mlp(0)}, kl_from_baseline(documents), **options)
    other = llm.with_config(fj.edit_layers(llm.config, window=4))
    with pytest.raises(fj.RequestError, match="its definition"):
        quiet(other, {"edit": fj.edits.ablate_mlp(0)}, kl_from_baseline(documents), **options)


def total(llm, taps):
    return [score.total for score in llm.score([[1, 2, 3], [4, 5, 6, 7]], taps=taps)]


def test_a_function_is_a_metric(llm):
    found = quiet(llm, {"no mlp": fj.edits.ablate_mlp(0)}, total)
    assert found.metric == "total"
    expected = [logprobs(llm, ids).sum() for ids in ([1, 2, 3], [4, 5, 6, 7])]
    assert found.baseline.value == pytest.approx(np.mean(expected), abs=1e-4)
    assert found["no mlp"].difference != 0


def constant(llm, taps):
    return [2.0, 1.0]


def test_a_stopped_sweep_goes_on_with_what_is_missing(llm, documents, tmp_path, monkeypatch):
    path, score, calls = tmp_path / "results.json", llm.score, []

    def stops(texts, *, taps=None):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(len(texts))
        return score(texts, taps=taps)

    monkeypatch.setattr(llm, "score", stops)
    options = {"path": path, "max_requests": 3}
    with pytest.raises(KeyboardInterrupt):
        quiet(llm, head_grid(), nll(documents), **options)
    stopped = SweepTable.load(path)
    assert [row.name for row in stopped.rows] == ["baseline", "layer 0, head 0", "layer 0, head 1"]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    monkeypatch.setattr(llm, "score", score)
    whole = quiet(llm, head_grid(), nll(documents), **options)
    assert [row.run for row in whole.rows] == [0] * 3 + [1] * 6
    assert len(whole.runs) == 2
    at_once = quiet(llm, head_grid(), nll(documents))
    for row, other in zip(whole.rows, at_once.rows, strict=True):
        assert row.key == other.key
        assert row.difference == pytest.approx(other.difference, abs=1e-5)
    assert SweepTable.load(path).to_json() == whole.to_json()
    monkeypatch.setattr(llm, "score", None)
    again = quiet(llm, head_grid(), nll(documents), **options)
    assert again.to_json() == whole.to_json()


def test_a_changed_variant_is_measured_anew_and_the_others_are_not(llm, tmp_path):
    path = tmp_path / "results.json"
    variants = {"a": fj.edits.ablate_mlp(0), "b": fj.edits.ablate_mlp(1)}
    first = quiet(llm, variants, constant, path=path)
    variants["b"] = fj.edits.ablate_mlp([0, 1])
    variants["c"] = {"page_size": 4}
    second = quiet(llm, variants, constant, path=path)
    assert [row.run for row in second.rows] == [0, 0, 1, 1]
    assert second["b"].variant != first["b"].variant


def test_a_changed_base_model_is_measured_anew(llm, tmp_path):
    path = tmp_path / "results.json"
    quiet(llm, {"a": fj.edits.ablate_mlp(0)}, constant, path=path)
    other = llm.with_config(fj.edit_layers(llm.config, window=4))
    found = quiet(other, {"a": fj.edits.ablate_mlp(0)}, constant, path=path)
    assert [row.run for row in found.rows] == [1, 1]


def test_a_file_of_another_sweep_is_refused(llm, documents, tmp_path):
    path = tmp_path / "results.json"
    variants = {"a": fj.edits.ablate_mlp(0), "b": None}
    quiet(llm, variants, nll(documents), path=path)
    before = path.read_bytes()

    def refused(says, llm=llm, variants=variants, metric=None, **options):
        metric = nll(documents) if metric is None else metric
        with pytest.raises(fj.RequestError, match=says) as caught:
            quiet(llm, variants, metric, path=path, **options)
        assert "another path" in str(caught.value)
        assert path.read_bytes() == before

    refused("the metric is nll there and total here", metric=total)
    refused("its texts or its definition", metric=nll(documents[:2]))
    config = model("dense")
    other = fj.LLM(config, init_params(config, seed=4), engine=ENGINE)
    refused("the weights are", llm=other)
    refused("the seed is None there and 3 here", seed=3)
    refused("rows that are not asked for: a", variants={"c": fj.edits.ablate_mlp(0), "b": None})


def always(value):
    return lambda llm, taps: value


def test_a_changed_function_is_another_metric(llm, tmp_path):
    path = tmp_path / "results.json"
    quiet(llm, {"a": fj.edits.ablate_mlp(0)}, always(1.0), path=path)
    assert quiet(llm, {"a": fj.edits.ablate_mlp(0)}, always(1.0), path=path).runs[1:] == ()
    with pytest.raises(fj.RequestError, match="its definition"):
        quiet(llm, {"a": fj.edits.ablate_mlp(0)}, always(2.0), path=path)


def test_another_name_of_the_baseline_is_taken_over(llm, tmp_path):
    path = tmp_path / "results.json"
    quiet(llm, {"a": fj.edits.ablate_mlp(0)}, constant, path=path)
    found = quiet(llm, {"a": fj.edits.ablate_mlp(0), "plain": None}, constant, path=path)
    assert [(row.name, row.run) for row in found.rows] == [("plain", 0), ("a", 0)]


def test_a_file_that_is_no_table_is_refused(llm, tmp_path):
    path = tmp_path / "results.json"
    for text in ("{", "[]", json.dumps({"format": "ferrum_jax sweep 0"})):
        path.write_text(text)
        with pytest.raises(fj.RequestError, match="not a sweep's table"):
            quiet(llm, {"a": None}, constant, path=path)


def test_a_path_that_cannot_be_written_is_found_before_anything_runs(llm, tmp_path):
    calls = []
    with pytest.raises(OSError, match="missing"):
        quiet(llm, {"a": None}, lambda *_: calls.append(1), path=tmp_path / "missing" / "x.json")
    assert not calls


def test_errors_of_variants_are_rows_and_the_others_run(llm, documents, tmp_path):
    path = tmp_path / "results.json"
    narrow = fj.edit_layers(llm.config, layers=[0], num_heads=2)
    variants = {
        **head_grid(),
        "no head": fj.edits.ablate_heads([(0, 9)]),
        "no layer": fj.edits.ablate_heads([(7, 0)]),
        "no field": {"pagesize": 4},
        "misfit": narrow,
    }
    found = quiet(llm, variants, nll(documents), path=path)
    assert "head 9 does not exist in layer 0" in found["no head"].failure
    assert "7" in found["no layer"].failure
    assert "no field 'pagesize'" in found["no field"].failure
    assert "do not fit this config" in found["misfit"].failure
    assert np.isnan([found["misfit"].value, found["misfit"].difference]).all()
    assert all(np.isfinite(found[place].difference) for place in HEADS)
    loaded = SweepTable.load(path)
    assert loaded["misfit"].failure == found["misfit"].failure
    again = quiet(llm, variants, nll(documents), path=path)
    assert [row.run for row in again.rows] == [0] * 9 + [1] * 4


def by_edit(plain, edited):
    return lambda llm, taps: plain if taps is None else edited


def test_a_metric_that_fails_for_a_variant_is_its_failure(llm):
    edit = {"edit": fj.edits.ablate_mlp(0)}
    found = quiet(llm, edit, by_edit([1.0, 2.0], [1.0, float("nan")]))
    assert "nan for document 1" in found["edit"].failure
    found = quiet(llm, edit, by_edit([1.0, 2.0], [1.0]))
    assert "1 values, and 2 for the baseline" in found["edit"].failure
    found = quiet(llm, edit, by_edit([1.0, 2.0], "x"))
    assert "must give a number" in found["edit"].failure


def test_a_baseline_that_fails_and_other_errors_are_raised(llm):
    edit = {"edit": fj.edits.ablate_mlp(0)}
    with pytest.raises(fj.RequestError, match="nan for document 0"):
        quiet(llm, edit, by_edit(float("nan"), 1.0))

    def broken(llm, taps):
        return {}["missing"]

    with pytest.raises(KeyError):
        quiet(llm, edit, broken)


def test_wrong_arguments_are_refused(llm, documents):
    with pytest.raises(fj.RequestError, match="is no metric"):
        quiet(llm, {"a": None}, "nll")
    for count in (0, True, 1.5):
        with pytest.raises(fj.RequestError, match="max_requests"):
            quiet(llm, {"a": None}, nll(documents), max_requests=count)


def test_a_bar_counts_variants_and_starts_with_those_that_are_done(llm, tmp_path, capsys):
    path = tmp_path / "results.json"
    sweep(llm, {"a": fj.edits.ablate_mlp(0)}, constant, path=path)
    assert "2/2" in capsys.readouterr().err
    sweep(llm, {"a": fj.edits.ablate_mlp(0), "b": fj.edits.ablate_mlp(1)}, constant, path=path)
    assert "2/3" in (bar := capsys.readouterr().err)
    assert "3/3" in bar
    sweep(llm, {"a": fj.edits.ablate_mlp(0)}, constant, progress=False)
    assert capsys.readouterr().err == ""
