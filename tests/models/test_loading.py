"""From a directory to parameters: strict both ways, bounded in memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.families import FAMILIES, read_config
from ferrum_jax.models.shapes import check_params
from ferrum_jax.models.weights.load import load_config, load_model
from ferrum_jax.models.weights.naming import BUFFERS
from ferrum_jax.models.weights.save import save_weights
from tests.parity.golden import case_names, load_case, write_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(load_case("llama"), tmp_path)


def edit_tensors(directory, edit):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def test_missing_unread_and_misshapen_tensors_in_one_error(checkpoint):
    def damage(tensors):
        del tensors["model.norm.weight"]
        del tensors["model.layers.0.self_attn.q_proj.weight"]
        tensors["model.layers.9.mlp.extra"] = np.zeros(3, np.float32)
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :-1].copy()

    edit_tensors(checkpoint, damage)
    with pytest.raises(fj.WeightError) as error:
        load_model(checkpoint)
    message = str(error.value)
    assert "missing (2)" in message
    assert "model.norm.weight" in message
    assert "model.layers.0.self_attn.q_proj.weight" in message
    assert "unread (1): 'model.layers.9.mlp.extra'" in message
    assert "misshapen (1): lm_head.weight" in message


def test_a_transposed_matrix_is_noticed(checkpoint):
    def transpose(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        tensors[name] = np.ascontiguousarray(tensors[name].T)

    edit_tensors(checkpoint, transpose)
    with pytest.raises(fj.WeightError, match="up_proj"):
        load_model(checkpoint)


def test_integer_weights_are_refused(checkpoint):
    def as_int(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int32)

    edit_tensors(checkpoint, as_int)
    with pytest.raises(fj.WeightError, match="int32"):
        load_model(checkpoint)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(checkpoint, dtype):
    config, params = load_model(checkpoint, dtype)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {dtype}
    check_params(config, params)


def test_an_unknown_dtype(checkpoint):
    with pytest.raises(fj.ConfigError, match="int7"):
        load_model(checkpoint, "int7")


@pytest.mark.parametrize("name", case_names())
def test_saving_gives_back_every_tensor(name, tmp_path):
    golden = load_case(name)
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_checkpoint(golden, source, shards=1)
    copy.mkdir()
    config, params = load_model(source)
    save_weights(config, params, copy)
    expected, saved = load_file(source / "model.safetensors"), load_file(copy / "model.safetensors")
    # Constants that the config determines are neither read nor written.
    expected = {key: value for key, value in expected.items() if not key.endswith(BUFFERS)}
    assert saved.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(saved[key], value.astype(np.float32), err_msg=key)


def raw_config(name="llama", **changes):
    return {**load_case(name).config, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_type": "lama"}, fj.UnsupportedError, "did you mean 'llama'"),
        ({"model_type": None}, fj.ConfigError, "no model_type"),
        ({"rotary_pct": 0.5}, fj.ConfigError, "rotary_pct = 0.5"),
        ({"hidden_size": -64}, fj.ConfigError, "hidden_size is -64"),
        ({"num_hidden_layers": 0}, fj.ConfigError, "num_hidden_layers"),
        ({"num_hidden_layers": True}, fj.ConfigError, "num_hidden_layers"),
        ({"vocab_size": "96"}, fj.ConfigError, "vocab_size"),
        ({"num_attention_heads": 3, "head_dim": None}, fj.ConfigError, "no multiple"),
        ({"num_key_value_heads": 3}, fj.ConfigError, "no multiple"),
        ({"head_dim": 7}, fj.ConfigError, "even"),
        ({"hidden_act": "swoosh"}, fj.UnsupportedError, "swoosh"),
        ({"rms_norm_eps": 0}, fj.ConfigError, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, fj.ConfigError, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, fj.ConfigError, "true or false"),
        ({"rope_parameters": {"rope_type": "spiral"}}, fj.UnsupportedError, "spiral"),
        ({"rope_parameters": {"rope_type": "linear"}}, fj.ConfigError, "needs a factor"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2, "beta_fast": 1}},
            fj.ConfigError,
            "does not know beta_fast",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": -2}}, fj.ConfigError, "factor"),
        ({"quantization_config": {"bits": 4}}, fj.UnsupportedError, "quantization_config"),
    ],
)
def test_wrong_configs(changes, error, says):
    with pytest.raises(error, match=says):
        read_config(raw_config(**changes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_parameters": "linear"}),
        ("llama", {"rope_parameters": None, "rope_scaling": [1]}),
        ("gemma3_text", {"rope_parameters": 3}),
        ("gemma3_text", {"rope_parameters": {"full_attention": 3}}),
        ("qwen2_window", {"layer_types": None, "max_window_layers": "2"}),
        ("qwen3_moe", {"mlp_only_layers": 3}),
        ("qwen3_moe", {"mlp_only_layers": ["0"]}),
    ],
)
def test_values_of_the_wrong_kind(name, changes):
    with pytest.raises(fj.ConfigError):
        read_config(raw_config(name, **changes))


def test_every_unknown_key_is_listed():
    with pytest.raises(fj.ConfigError, match=r"alpha = 1, beta = 2"):
        read_config(raw_config(alpha=1, beta=2))


def test_contradictory_windows():
    with pytest.raises(fj.ConfigError, match="use_sliding_window"):
        read_config(raw_config("qwen2_layer_types", use_sliding_window=False, sliding_window=None))


def test_more_experts_chosen_than_there_are():
    with pytest.raises(fj.ConfigError, match="num_experts_per_tok"):
        read_config(raw_config("mixtral", num_experts_per_tok=99))


def test_a_missing_or_broken_config(tmp_path):
    with pytest.raises(fj.ConfigError, match=r"config\.json"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(fj.ConfigError, match="JSON"):
        load_config(tmp_path)


def test_remote_code_is_never_imported(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text("raise SystemExit('imported')")
    load_model(checkpoint)
    assert "evil" not in sys.modules


def test_configs_print_as_tables_and_compare_by_value():
    for name in case_names():
        raw = load_case(name).config
        config = read_config(raw)
        assert config == read_config(raw)
        assert hash(config) == hash(read_config(raw))
        lines = str(config).splitlines()
        assert config.model_type in lines[0]
        assert lines[2].split() == ["layers", "norm", "attention", "position", "feed-forward"]
        assert all(len(line) < 160 for line in lines)
    assert {load_case(name).model_type for name in case_names()} == set(FAMILIES)


PEAK = textwrap.dedent("""
    import sys, jax, jax.numpy as jnp
    from pathlib import Path
    jax.config.update("jax_platforms", "cpu")
    from ferrum_jax.models.weights.load import load_model

    def resident(key):
        return 1024 * int(Path("/proc/self/status").read_text().split(key)[1].split()[0])

    jnp.zeros(1).block_until_ready()
    before = resident("VmRSS:")
    _, params = load_model(sys.argv[1], sys.argv[2])
    jax.block_until_ready(params)
    held = sum(x.nbytes for x in jax.tree_util.tree_leaves(params))
    print((resident("VmHWM:") - before) / held, held)
""")
"""VmHWM and not ru_maxrss: the latter starts from the peak of the process that forked."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_of_loading(tmp_path, dtype):
    """Below 1.3 times the weights as loaded, in a process of its own."""
    config = fj.ModelConfig(
        model_type="llama",
        vocab_size=8000,
        hidden_size=512,
        layers=read_config(raw_config(hidden_size=512, intermediate_size=1536, head_dim=64)).layers
        * 4,
        max_positions=128,
    )
    save_weights(config, init_params(config), tmp_path, dtype="bfloat16")
    spec = config.layers[0]
    raw = raw_config(
        vocab_size=8000,
        hidden_size=512,
        num_hidden_layers=config.num_layers,
        intermediate_size=spec.mlp.ffn_size,
        head_dim=spec.attention.head_dim,
        max_position_embeddings=128,
    )
    (tmp_path / "config.json").write_text(json.dumps(raw))
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), dtype],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    ratio, held = result.stdout.split()
    assert int(held) > 80e6
    # The weights themselves are in it, so that a measure of nothing does not pass.
    assert 0.95 < float(ratio) < 1.3, result.stdout


@pytest.mark.parametrize("name", ["llama_bfloat16", "phi3", "gpt_oss", "mixtral"])
def test_the_bar_ends_at_all_of_it(name, tmp_path, capsys):
    """Of tensors that are several parameters, or one parameter of several, too."""
    _, params = load_model(write_checkpoint(load_case(name), tmp_path), progress=True)
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert last.startswith("load: 100%")
    loaded = tqdm.format_sizeof(sum(x.nbytes for x in jax.tree.leaves(params)))
    assert f" {loaded}/{loaded} " in last
