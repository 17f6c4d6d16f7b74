"""`ferrum-jax bench`: complete records, consistent numbers, and the formulas behind them."""

import json
from dataclasses import replace

import jax
import pytest

from ferrum_jax.attention import dense_attention
from ferrum_jax.cli.bench_costs import decode_cost, prefill_cost
from ferrum_jax.cli.bench_limits import Limits, median_limits
from ferrum_jax.cli.bench_measured import summarise
from ferrum_jax.cli.bench_run import Sizes, Workload
from ferrum_jax.cli.bench_shapes import SHAPES
from ferrum_jax.models import forward, init_params, unembed
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import DataType, EngineConfig, LayerSpec, MoEConfig, ResourceExhausted

SMALL = (
    *("--prompt-tokens", 16, "--new-tokens", 4, "--rounds", 2, "--limit-megabytes", 2),
    *("--engine", "max_num_seqs=3,max_model_len=128"),
)


@pytest.fixture(scope="module")
def record_and_table(checkpoint, tmp_path_factory):
    import contextlib
    import io

    from ferrum_jax.cli.main import main

    file = tmp_path_factory.mktemp("bench") / "record.json"
    argv = ("bench", "--model", checkpoint, "--batch", "1,3", "--json", file, *SMALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(a) for a in argv]) == 0
    return json.loads(file.read_text()), out.getvalue()


def test_the_record_is_complete(record_and_table):
    record, _ = record_and_table
    names = [(r["name"], r["batch"]) for r in record["results"]]
    assert names == [("first token, warm", 1), ("prefill", 3), ("decode", 1), ("decode", 3)]
    assert record["first_token_cold_seconds"] > 0
    assert record["compilation_seconds"]
    assert len(record["compilation_seconds"]) <= record["declared_shapes"]
    assert record["memory"]["weight_bytes"] == 4 * 28_192
    assert record["memory"]["cache_bytes"] > 0
    assert record["memory"]["peak_bytes"] > 2**20
    assert record["versions"]["jax"] == jax.__version__


def test_its_numbers_are_consistent(record_and_table):
    record, _ = record_and_table
    limits = record["limits"]
    assert limits["read_bytes_per_second"] == max(limits["by_way"]["read"].values())
    assert limits["flops_per_second"] == max(limits["by_way"]["multiply"].values())
    for r in record["results"]:
        assert r["tokens_per_second"] == pytest.approx(r["tokens"] / r["seconds"])
        assert 0 < r["fraction"] < 2
        assert 0 < r["bandwidth_fraction"] <= r["fraction"] * 1.0001
        assert r["bound"] in ("memory", "matmul")
        if r["name"] == "decode":
            assert r["tokens"] == r["batch"]
            assert 0 < r["dispatch_seconds"] <= r["host_seconds"] < 0.5
    _, prefill, one, three = record["results"]
    assert prefill["tokens"] == 48
    assert three["flops"] == pytest.approx(3 * one["flops"])
    assert one["bytes"] < three["bytes"] < 3 * one["bytes"]


def test_its_table_parses(record_and_table):
    record, text = record_and_table
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    header, rule, *body = rows
    assert {len(row) for row in rows} == {len(header)}
    assert set("".join(rule)) <= set("-:")
    for row, result in zip(body, record["results"], strict=True):
        cells = dict(zip(header, row, strict=True))
        assert float(cells["tokens/s"]) == pytest.approx(result["tokens_per_second"], rel=0.01)
        assert float(cells["fraction"]) == pytest.approx(result["fraction"], abs=0.006)


def test_json_on_stdout_prints_no_table(run, record_and_table, monkeypatch):
    record, _ = record_and_table
    monkeypatch.setattr("ferrum_jax.cli.bench._measure", lambda args: record)
    code, out, _ = run("bench", "--json", "-")
    assert code == 0
    assert json.loads(out) == record


def test_a_file_that_cannot_be_written_is_a_usage_error(run, record_and_table, monkeypatch):
    record, _ = record_and_table
    monkeypatch.setattr("ferrum_jax.cli.bench._measure", lambda args: record)
    code, _, err = run("bench", "--json", "/no/such/folder/record.json")
    assert code == 2
    assert "cannot write" in err


def test_a_batch_above_max_num_seqs_is_a_usage_error(run, checkpoint):
    code, _, err = run("bench", "--model", checkpoint, "--batch", "4", *SMALL)
    assert code == 2
    assert "--batch 4 is above max_num_seqs = 3" in err


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("speculative=ngram", "bench times steps of one token a sequence"),
        ("mesh=2", "the limits that bench measures are of one device"),
    ],
)
def test_what_is_not_timed_is_a_usage_error(setting, says, run, checkpoint):
    code, _, err = run("bench", "--model", checkpoint, "--engine", setting)
    assert code == 2
    assert says in err


def test_requests_that_cannot_decode_together_are_an_error(checkpoint):
    engine = EngineConfig(max_num_seqs=3, max_model_len=128, num_pages=3)
    refused = pytest.raises(ResourceExhausted, match="raise max_num_seqs, num_pages")
    with LLM.load(checkpoint, engine=engine) as llm, refused:
        Workload(llm, Sizes(prompt=16, new=4, rounds=2)).run_once(3)


@pytest.mark.parametrize("argv", [("--batch", "0"), ("--batch", "x"), ("--shape", "2m")])
def test_a_wrong_size_is_a_usage_error(run, argv):
    assert run("bench", *argv)[0] == 2


def test_a_shape_and_a_model_exclude_each_other(run):
    code, _, err = run("bench", "--shape", "10m", "--model", "demo")
    assert code == 2
    assert "exclude" in err


def test_the_100m_shape_has_100_million_parameters():
    cost = decode_cost(SHAPES["100m"].config(), 1, 0, 4)
    assert cost.bytes == pytest.approx(4e8, rel=0.01)
    assert cost.flops == pytest.approx(2e8, rel=0.01)


def test_prefill_flops_agree_with_the_compiler():
    config = replace(SHAPES["10m"].config(), vocab_size=512)
    length = 64

    def run(params, tokens, positions):
        hidden, _ = forward(params, tokens, positions, None, config=config, attend=dense_attention)
        return unembed(params, hidden[-1:], config)

    ids = jax.ShapeDtypeStruct((length,), "int32")
    params = jax.eval_shape(lambda: init_params(config))
    counted = jax.jit(run).lower(params, ids, ids).cost_analysis()["flops"]
    # The dense forward also multiplies the masked half of the attention, and does the norms.
    assert 0.9 * counted < prefill_cost(config, 1, length, 4).flops < counted


def test_a_window_bounds_the_keys_that_are_read():
    config = SHAPES["10m"].config()
    near = replace(config.layers[0], attention=replace(config.layers[0].attention, window=8))
    windowed = replace(config, layers=(near,) * config.num_layers)
    assert decode_cost(windowed, 2, 1000, 4).bytes == decode_cost(config, 2, 8, 4).bytes


def test_a_quantised_cache_reads_its_bytes_and_its_scales():
    config = SHAPES["100m"].config()
    weights = decode_cost(config, 3, 0, 4).bytes
    elements = 12 * 2 * 4 * 64
    assert decode_cost(config, 3, 10, 4).bytes - weights == 30 * elements * 4
    int8 = decode_cost(config, 3, 10, 4, DataType.INT8).bytes
    assert int8 - weights == 30 * (elements + 12 * 2 * 4 * 4)


def test_only_the_chosen_experts_count():
    config = SHAPES["10m"].config()

    def of_experts(num_experts):
        mlp = MoEConfig(num_experts=num_experts, experts_per_token=2, ffn_size=64)
        layers = (LayerSpec(config.layers[0].attention, mlp),) * config.num_layers
        return replace(config, layers=layers)

    few, many = of_experts(4), of_experts(8)
    router = config.num_layers * config.hidden_size * 4
    extra = decode_cost(many, 1, 10, 4).flops - decode_cost(few, 1, 10, 4).flops
    assert extra == 2 * router
    # Four rows may choose all eight experts, but never more.
    assert decode_cost(many, 4, 0, 4).bytes == decode_cost(many, 400, 0, 4).bytes


def test_medians_are_of_rounds_and_the_slower_limit_binds():
    cost = decode_cost(SHAPES["10m"].config(), 1, 0, 4)
    fast = Limits(read={"a": cost.bytes, "b": 1.0}, multiply={"float32": 1e30})
    slow = Limits(read={"a": cost.bytes / 4, "b": 1.0}, multiply={"float32": 1e30})
    measured = summarise("decode", 1, 1, cost, [(fast, 2.0), (slow, 8.0), (slow, 5.0)])
    assert measured.fraction == 0.5
    assert measured.seconds == 5.0
    assert measured.bound == "memory"
    assert median_limits([fast, slow, slow]) == slow
