"""`llm.embed`: pooled hidden states, those of the dense forward; a directory's own pooling."""

import json
import shutil
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.runtime.sentence import EmbeddingDefaults, embedding_defaults
from tests.runtime.models import VOCAB, idle, make_llm
from tests.runtime.test_capture import ENGINE, dense

close = partial(np.testing.assert_allclose, rtol=0, atol=5e-5)
PROMPTS = [
    np.random.default_rng(length).integers(3, VOCAB, length).tolist()
    for length in (5, 19, 1, 33, 8, 16, 12)
]
POOLED = {"last": lambda x: x[-1], "mean": lambda x: x.mean(axis=0), "cls": lambda x: x[0]}
TYPE = "sentence_transformers.models."


@pytest.fixture(scope="module")
def llm():
    return make_llm("dense", ENGINE)


@pytest.fixture(scope="module")
def hidden(llm):
    return [dense(llm, ids, fj.Taps())[0] for ids in PROMPTS]


@pytest.mark.parametrize("pooling", POOLED)
def test_chunks_of_any_length_give_the_dense_hidden_states_pooled(llm, hidden, pooling):
    expected = np.stack([POOLED[pooling](x) for x in hidden])
    found = llm.embed(PROMPTS, pooling)
    assert found.dtype == np.float32
    assert found.shape == (len(PROMPTS), llm.config.hidden_size)
    close(found, expected)
    unit = llm.embed(PROMPTS, pooling=pooling, normalize=True)
    close(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True))
    assert idle(llm)


def test_each_text_has_its_own_edits(llm, hidden):
    taps = fj.edits.ablate_layer(1)
    found = llm.embed(PROMPTS[:2], taps=[None, taps])
    close(found[0], hidden[0][-1])
    close(found[1], dense(llm, PROMPTS[1], taps)[0][-1])
    assert np.abs(found[1] - hidden[1][-1]).max() > 1e-2


def test_it_runs_the_programs_of_capturing(llm):
    llm.embed(PROMPTS)
    before = set(llm.compilations)
    llm.capture(PROMPTS, "resid_post", llm.config.num_layers - 1)
    llm.embed(PROMPTS, "mean", normalize=True)
    assert set(llm.compilations) == before


def test_the_last_state_gives_the_next_tokens_logits(llm):
    """What "after the final norm" means: the output matrix is all that is missing."""
    vector = llm.embed(PROMPTS[1])
    logits = fj.unembed(llm.params, jnp.asarray(vector), llm.config)
    close(np.asarray(logits)[0], llm.logits(PROMPTS[1])[-1])


def test_shapes_at_the_edges(llm):
    assert llm.embed([]).shape == (0, llm.config.hidden_size)
    assert llm.embed(PROMPTS[0]).shape == (1, llm.config.hidden_size)
    one = llm.embed([PROMPTS[2]] * 2, "cls")
    close(one, llm.embed([PROMPTS[2]] * 2, "mean"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("max",), "pooling is 'max'; choose one of last, mean, cls"),
        ((7,), "pooling is 7; choose one of"),
        (("last", "yes"), "normalize is 'yes'; it must be True or False"),
    ],
)
def test_refused(llm, arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        llm.embed(PROMPTS, *arguments)
    with pytest.raises(fj.RequestError, match="the prompt has no tokens"):
        llm.embed([[]])


def write(directory, kinds, pooling):
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": TYPE + kind}
        for i, kind in enumerate(kinds)
    ]
    # In any order: the index counts.
    (directory / "modules.json").write_text(json.dumps(modules[::-1]))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return embedding_defaults(directory)


def flags(*chosen):
    known = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    return {
        "word_embedding_dimension": 64,
        "include_prompt": True,
        **{f"pooling_mode_{name}": name in chosen for name in known},
    }


@pytest.mark.parametrize(
    ("kinds", "pooling", "expected"),
    [
        (["Transformer", "Pooling", "Normalize"], flags("lasttoken"), ("last", True)),
        (["Transformer", "Pooling"], flags("mean_tokens"), ("mean", False)),
        (["Transformer", "Pooling"], flags("cls_token"), ("cls", False)),
        (["Transformer", "Pooling"], {"pooling_mode": "mean"}, ("mean", False)),
        (["Transformer", "Pooling"], {"pooling_mode": ["lasttoken"]}, ("last", False)),
        (["Transformer", "Pooling"], flags("max_tokens"), "the pooling max_tokens"),
        (
            ["Transformer", "Pooling"],
            flags("cls_token", "mean_tokens"),
            "the pooling cls_token with mean_tokens",
        ),
        (["Transformer", "Pooling"], flags(), "the pooling of nothing"),
        (["Transformer", "Pooling", "Dense"], flags("lasttoken"), "the modules Dense"),
        (["Transformer"], {}, "the modules Transformer, in this order"),
    ],
)
def test_what_a_directory_asks_for(tmp_path, kinds, pooling, expected):
    found = write(tmp_path, kinds, pooling)
    if isinstance(expected, str):
        assert found.unsupported == expected
    else:
        assert found == EmbeddingDefaults(*expected)


def test_a_directory_without_modules_has_the_plain_defaults(tmp_path):
    assert embedding_defaults(tmp_path) == EmbeddingDefaults("last", False)


def test_loading_a_directory_reads_them(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, directory)
    write(directory, ["Transformer", "Pooling", "Normalize"], flags("mean_tokens"))
    with fj.LLM.load(directory) as llm:
        assert llm.embedding_defaults == EmbeddingDefaults("mean", True)


def test_a_missing_pooling_is_missed_only_where_it_is_asked_for(tmp_path):
    write(tmp_path, ["Transformer", "Pooling"], flags("lasttoken"))
    (tmp_path / "1_Pooling" / "config.json").unlink()
    found = embedding_defaults(tmp_path)
    assert found.unsupported == "1_Pooling/config.json, which is not there"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}x", "JSONDecodeError"),
        ('[{"idx": 0}]', "KeyError: 'type'"),
        ("[3]", "TypeError"),
        ('[{"idx": 0, "type": "a.Pooling", "path": "../x"}]', "outside the directory"),
    ],
)
def test_wrong_modules_are_an_error(tmp_path, text, says):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(fj.ConfigError, match=says):
        embedding_defaults(tmp_path)


def test_the_defaults_hold_until_told_otherwise(llm, hidden):
    def with_defaults(defaults):
        return fj.LLM(llm.config, llm.params, engine=replace(ENGINE), embedding=defaults)

    theirs = with_defaults(EmbeddingDefaults("mean", True)).with_config(llm.config)
    theirs._engine, theirs._driver = llm._engine, llm._driver  # the programs there are
    mean = hidden[0].mean(axis=0)
    close(theirs.embed(PROMPTS[0])[0], mean / np.linalg.norm(mean))
    close(theirs.embed(PROMPTS[0], "last", False)[0], hidden[0][-1])
    refused = with_defaults(EmbeddingDefaults(unsupported="the modules Dense"))
    refused._engine, refused._driver = llm._engine, llm._driver
    with pytest.raises(fj.UnsupportedError, match="asks for the modules Dense, which embed"):
        refused.embed(PROMPTS[0])
    close(refused.embed(PROMPTS[0], "last")[0], hidden[0][-1])
