"""What lm-eval makes of its command line: arguments, chat templates, records. Nothing runs."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import ferrum_jax as fj
from ferrum_jax.research.lm_eval import EngineModel
from ferrum_jax.research.lm_eval.arguments import load, own_length
from ferrum_jax.research.lm_eval.scoring import EXTRA_TOKENS
from ferrum_jax.runtime.directory import DEMO_MODEL
from ferrum_jax.runtime.record import to_json, weights_digest
from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.types import RopeConfig, RopeKind, RopeScaling
from tests.runtime.models import model as small_config


@pytest.fixture(scope="module")
def llm():
    return fj.LLM.load("demo", engine=fj.EngineConfig(max_num_seqs=4))


@pytest.fixture(scope="module")
def model(llm):
    return EngineModel(llm)


def test_model_arguments_reach_the_engine():
    made = EngineModel(
        "demo", max_length=40, max_num_seqs=3, max_num_batched_tokens=9, kv_dtype="int8"
    )
    engine = made.llm.engine_config
    assert (engine.max_num_seqs, engine.max_num_batched_tokens, engine.kv_dtype) == (3, 9, "int8")
    assert made.max_length == 40
    assert made.llm.max_model_len == 41


def test_the_model_sees_as_many_tokens_as_it_has_positions():
    assert EngineModel("demo").max_length == 512
    assert load("demo", "bfloat16", None, {}).params.embed.dtype == jnp.bfloat16


def test_a_rope_that_depends_on_the_length_is_kept_as_it_is():
    """One token more than it was trained for would turn every key in another way."""
    config = small_config("dense")
    assert own_length(config) == config.max_positions == 512
    scaling = RopeScaling(RopeKind.DYNAMIC, factor=2.0, original_max_positions=128)
    layers = [
        replace(layer, attention=replace(layer.attention, rope=RopeConfig(scaling=scaling)))
        for layer in config.layers
    ]
    length = own_length(replace(config, layers=tuple(layers)))
    assert length + EXTRA_TOKENS == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": "demo", "max_num_seq": 3}, r"max_num_seq .*did you mean max_num_seqs"),
        ({"pretrained": "demo", "trust_remote_code": True}, "trust_remote_code"),
        ({"pretrained": "demo", "device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_wrong_model_arguments_are_refused(arguments, message):
    with pytest.raises(fj.RequestError, match=message):
        EngineModel(**arguments)


def test_an_llm_has_settled_its_engine(llm):
    with pytest.raises(fj.RequestError, match="dtype, num_pages cannot be set"):
        EngineModel(llm, dtype="float32", num_pages=9)
    with pytest.raises(fj.TokenizerError, match="no tokenizer"):
        EngineModel(fj.LLM(llm.config, llm.params))


def test_lm_evals_own_arguments(llm):
    EngineModel(llm, batch_size=1, device="cuda:0")
    EngineModel(llm, batch_size="auto:4", device="cpu")
    with pytest.warns(UserWarning, match="batch_size = 16"):
        EngineModel(llm, batch_size=16)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content CLEAN}}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CHAT = [{"role": "user", "content": "hi "}, {"role": "assistant", "content": "well, "}]


@pytest.fixture
def chatting(llm, tmp_path):
    """A model whose tokenizer has a chat template, which may strip its messages."""

    def make(clean):
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(DEMO_MODEL / name, tmp_path / name)
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE.replace("CLEAN", clean))
        return EngineModel(fj.LLM(llm.config, llm.params, load_tokenizer(tmp_path)))

    return make


def test_a_conversation_becomes_a_prompt(chatting):
    model = chatting("")
    assert model.apply_chat_template(CHAT[:1]) == "<s>[user] hi \n[assistant] "
    assert model.chat_template(True) == TEMPLATE.replace("CLEAN", "")
    assert model.chat_template(False) is None
    assert model.tok_encode(model.apply_chat_template(CHAT[:1])).count(1) == 1


def test_a_last_message_that_is_continued_stays_open(chatting):
    kept = chatting("").apply_chat_template(CHAT, add_generation_prompt=False)
    assert kept == "<s>[user] hi \n[assistant] well, "
    stripped = chatting("| trim").apply_chat_template(CHAT, add_generation_prompt=False)
    assert stripped == "<s>[user] hi\n[assistant] well,"
    with pytest.raises(fj.TokenizerError, match="leaves out the last message"):
        chatting("[:2]").apply_chat_template(CHAT, add_generation_prompt=False)


def test_a_model_without_a_template_says_so(model):
    assert model.chat_template(True) is None
    with pytest.raises(fj.TokenizerError, match="chat template"):
        model.apply_chat_template(CHAT[:1])
    with pytest.raises(fj.UnsupportedError, match="'rag'"):
        model.chat_template("rag")


def test_records_say_what_was_measured(model, llm):
    info = json.loads(to_json(model.get_model_info()))
    assert info["model_num_parameters"] == sum(x.size for x in jax.tree.leaves(llm.params))
    assert info["model_dtype"] == "float32"
    assert info["model_weights_sha256"] == weights_digest(llm.params)
    assert info["ferrum_jax"]["versions"]["jax"] == jax.__version__
    assert info["ferrum_jax"]["engine"]["max_num_seqs"] == 4
