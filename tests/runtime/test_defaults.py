"""What a checkpoint recommends: sampling and ends from its generation_config.json; and chats."""

import json

import pytest

import ferrum_jax as fj
from ferrum_jax.runtime.defaults import SamplingDefaults, sampling_defaults
from ferrum_jax.runtime.directory import eos_token_ids
from ferrum_jax.runtime.llm import DEMO_MODEL


@pytest.fixture
def recommended(tmp_path):
    def write(**record):
        (tmp_path / "generation_config.json").write_text(json.dumps(record))
        return sampling_defaults(tmp_path)

    return write


def test_what_the_file_states_is_honoured(recommended):
    found = recommended(
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        min_p=0.05,
        typical_p=0.9,
        repetition_penalty=1.05,
        max_new_tokens=2048,
        min_new_tokens=2,
        stop_strings=["END"],
        eos_token_id=[1, 2],
        pad_token_id=0,
        transformers_version="5.0",
        _from_model_config=True,
    )
    assert found.params == fj.SamplingParams(
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        min_p=0.05,
        typical_p=0.9,
        repetition_penalty=1.05,
        max_tokens=2048,
        min_tokens=2,
        stop=("END",),
    )
    assert found.not_applied == {}
    assert str(found).startswith("temperature 0.6, top_p 0.95, top_k 20, min_p 0.05")


def test_without_sampling_the_likeliest_token_is_taken(recommended):
    found = recommended(do_sample=False, temperature=0.6, top_p=0.9, repetition_penalty=1.1)
    assert found.params == fj.SamplingParams(temperature=0, repetition_penalty=1.1)
    assert found.given == {"temperature": 0.0, "repetition_penalty": 1.1}


def test_what_is_not_stated_stays(recommended, tmp_path):
    assert recommended(eos_token_id=3, temperature=None, use_cache=True).params == (
        fj.SamplingParams()
    )
    (tmp_path / "generation_config.json").unlink()
    assert sampling_defaults(tmp_path) == SamplingDefaults()


def test_what_is_not_done_is_shown(recommended):
    found = recommended(num_beams=4, no_repeat_ngram_size=0, suppress_tokens=[5], max_length=99)
    assert found.not_applied == {"num_beams": 4, "suppress_tokens": [5], "max_length": 99}
    assert str(found) == (
        "none of its own; not applied: num_beams 4, suppress_tokens [5], max_length 99"
    )


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"max_new_tokens": 0}, "max_tokens is 0"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_tokens is 4"),
    ],
)
def test_a_wrong_value_names_the_file(recommended, record, says):
    with pytest.raises(fj.ConfigError, match=rf"generation_config\.json: {says}"):
        recommended(**record)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"temperature": NaN}'])
def test_a_damaged_file(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(fj.FerrumError):
        sampling_defaults(tmp_path)


def test_several_ends(tmp_path):
    def ends(value, name="generation_config.json", key="eos_token_id"):
        (tmp_path / name).write_text(json.dumps({key: value}))
        return eos_token_ids(tmp_path, None)

    assert ends([7, 2, 7, 9]) == (7, 2, 9)
    assert ends(0) == (0,)
    for bad in ([1, -5], "2", [True], [1.5]):
        with pytest.raises(fj.ConfigError, match="eos_token_id holds"):
            ends(bad)
    (tmp_path / "generation_config.json").unlink()
    assert ends(4, "config.json") == (4,)
    assert ends({"eos_token_id": [5, 6]}, "config.json", "text_config") == (5, 6)


def test_requests_without_params_get_them(llm, monkeypatch):
    short = fj.SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    defaults = SamplingDefaults(short, {"temperature": 0.0, "max_tokens": 3})
    monkeypatch.setattr(llm, "sampling_defaults", defaults)
    assert repr(llm).endswith("default temperature 0.0, max_tokens 3)")
    greedy = llm.generate([[5, 6]])[0].outputs[0].token_ids
    assert greedy == llm.generate([[5, 6]], short)[0].outputs[0].token_ids
    assert [t for delta in llm.stream([5, 6]) for t in delta.token_ids] == greedy
    own = fj.SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    assert len(llm.generate([[5, 6]], own)[0].outputs[0].token_ids) == 5
    assert llm.with_config(llm.config).sampling_defaults is defaults


def test_the_defaults_are_loaded(llm):
    assert "default" not in repr(llm)
    with fj.LLM.load(DEMO_MODEL) as demo:
        assert demo.sampling_defaults.params == fj.SamplingParams(temperature=0)
        assert "default temperature 0.0" in repr(demo)


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% for t in tools or [] %}<{{ t.function.name }}>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def look_up(word: str):
    """Look a word up.

    Args:
        word: The word
    """


def test_conversations_are_prompts(llm):
    user = [{"role": "user", "content": "x = 1"}]
    params = fj.SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    template = {"chat_template": TEMPLATE, "tools": [look_up]}
    ids = llm.tokenizer.encode("[user]x = 1<look_up>[assistant]", add_special_tokens=False)
    (answer,) = llm.chat(user, params, template=template)
    assert answer.prompt_token_ids == ids
    assert answer.outputs[0].token_ids == llm.generate([ids], params)[0].outputs[0].token_ids
    several = llm.chat([user, user + user], params, template={"chat_template": TEMPLATE})
    assert [len(output.outputs) for output in several] == [1, 1]
    opened = llm.chat_ids(
        [*user, {"role": "assistant", "content": "It"}],
        chat_template=TEMPLATE,
        continue_final_message=True,
    )
    assert llm.tokenizer.decode(opened) == "[user]x = 1[assistant]It"


def test_what_is_no_conversation(llm):
    with pytest.raises(fj.TokenizerError, match="no default chat template"):
        llm.chat([{"role": "user", "content": "x"}])
    template = {"chat_template": "{{ raise_exception('no jokes') }}"}
    with pytest.raises(fj.RequestError, match="refuses the conversation: no jokes"):
        llm.chat([{"role": "user", "content": "x"}], template=template)
    for bad in ([], "hello", None, [["hello"]]):
        with pytest.raises(fj.RequestError):
            llm.chat(bad, template={"chat_template": "x"})
    bare = fj.LLM(llm.config, llm.params, engine=llm.engine_config)
    with pytest.raises(fj.TokenizerError, match="without a tokenizer"):
        bare.chat([{"role": "user", "content": "x"}])
