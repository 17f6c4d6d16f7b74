"""The lm-eval model: the answers of lm-eval's own `hf` model, request by request.

`make_lm_eval_reference.py` wrote the golden file. Where lm-eval is installed, its command runs too.
"""

import hashlib
import json
import math
import subprocess
import sys
import warnings
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.lm_eval import EngineModel, generate_texts, loglikelihoods
from ferrum_jax.research.lm_eval.generation import cut_at, sampling_params
from ferrum_jax.runtime.directory import DEMO_MODEL

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "lm_eval_golden.json").read_text())
MAX_LENGTH = GOLDEN["max_length"]
TOLERANCE = 1e-4
"""Largest difference of a request's log-likelihood, in nats."""
RUNS = sorted(GOLDEN["runs"])
TEXT = "The for statement is used to iterate over the elements of a sequence"


@pytest.fixture(scope="module")
def llm():
    engine = fj.EngineConfig(
        max_model_len=MAX_LENGTH + 2, max_num_seqs=4, max_num_batched_tokens=64, num_pages=40
    )
    with fj.LLM.load("demo", engine=engine) as loaded:
        yield loaded


@pytest.fixture(scope="module", params=RUNS)
def run(request, llm):
    """`(model, requests of a kind)` of one of the golden file's models."""
    golden = GOLDEN["runs"][request.param]

    def of_kind(kind):
        return [asked for asked in golden["requests"] if asked["kind"] == kind]

    return EngineModel(llm, max_length=MAX_LENGTH, **golden["model_args"]), of_kind


@pytest.fixture(scope="module")
def model(llm):
    return EngineModel(llm, max_length=MAX_LENGTH)


def truncates(call):
    """What `call()` returns, which has to warn of contexts that it shortens."""
    with pytest.warns(UserWarning, match="left of their contexts"):
        return call()


def by_hand(llm, ids):
    """log-softmax of the dense forward, `[T, V]`."""
    return np.asarray(jax.nn.log_softmax(jnp.asarray(llm.logits(ids)), axis=-1))


def test_the_golden_file_is_of_these_weights():
    weights = (DEMO_MODEL / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == GOLDEN["weights_sha256"]


def test_log_likelihoods_equal_hf(run):
    model, of_kind = run
    asked = of_kind("loglikelihood")
    requests = [(None, r["context"], r["continuation"]) for r in asked]
    answers = truncates(lambda: model._loglikelihood_tokens(requests, disable_tqdm=True))
    for request, (logprob, greedy) in zip(asked, answers, strict=True):
        assert abs(logprob - request["answer"][0]) < TOLERANCE, request["arguments"]
        assert greedy is request["answer"][1]


def test_rolling_log_likelihoods_equal_hf(run):
    model, of_kind = run
    for request in of_kind("loglikelihood_rolling"):
        windows = [(None, *window) for window in request["windows"]]
        answers = model._loglikelihood_tokens(windows, disable_tqdm=True)
        assert abs(sum(logprob for logprob, _ in answers) - request["answer"]) < TOLERANCE


def test_generated_texts_equal_hf(run):
    model, of_kind = run
    asked = of_kind("generate_until")
    requests = [SimpleNamespace(args=r["arguments"]) for r in asked]
    texts = truncates(lambda: model.generate_until(requests, disable_tqdm=True))
    assert texts == [r["answer"] for r in asked]


def test_texts_are_encoded_as_hf_encodes_them(run):
    """The whole text and the context alone, of which lm-eval takes the difference."""
    model, of_kind = run
    for request in of_kind("loglikelihood"):
        (context, continuation), ids = request["arguments"], request["context"]
        if context:
            assert model.tok_encode(context.rstrip()) == ids
            assert model.tok_encode(context + continuation)[len(ids) :] == request["continuation"]
        else:
            assert ids == [model.prefix_token_id]
            encoded = model.tok_encode(continuation, add_special_tokens=False)
            assert encoded == request["continuation"]
    for request in of_kind("loglikelihood_rolling"):
        predicted = [token for _, tokens in request["windows"] for token in tokens]
        assert model.tok_encode(request["arguments"][0]) == predicted
        assert request["windows"][0][0] == [model.prefix_token_id]


def test_a_log_likelihood_is_the_sum_over_the_continuation(llm):
    ids = llm.encode(TEXT)
    logprobs = by_hand(llm, ids)
    pairs = [(ids[:k], ids[k:]) for k in (1, 5, len(ids) - 1)]
    for (context, tail), (value, _) in zip(
        pairs, loglikelihoods(llm, pairs, max_length=MAX_LENGTH), strict=True
    ):
        at = np.arange(len(context) - 1, len(ids) - 1)
        assert abs(value - logprobs[at, tail].astype(np.float64).sum()) < TOLERANCE


def test_greedy_means_that_every_token_is_the_likeliest(llm):
    context = llm.encode(TEXT)
    ids = list(context)
    for _ in range(3):
        ids.append(int(llm.logits(ids)[-1].argmax()))
    greedy = ids[len(context) :]
    seconds = [int(np.argsort(by_hand(llm, ids)[len(context) + i - 1])[-2]) for i in range(3)]
    tails = [greedy, *([*greedy[:i], seconds[i], *greedy[i + 1 :]] for i in range(3))]
    answers = loglikelihoods(llm, [(context, tail) for tail in tails], max_length=MAX_LENGTH)
    assert [flag for _, flag in answers] == [True, False, False, False]


@pytest.mark.parametrize("room", [6, 9])
def test_a_long_context_loses_its_left(llm, room):
    """`room` tokens are seen and one more is predicted."""
    ids = llm.encode(TEXT)
    pair = (ids[:-2], ids[-2:])
    ((value, _),) = truncates(lambda: loglikelihoods(llm, [pair], max_length=room))
    seen = ids[-(room + 1) :]
    logprobs = by_hand(llm, seen)
    expected = logprobs[room - 2, seen[-2]] + logprobs[room - 1, seen[-1]]
    assert abs(value - expected) < TOLERANCE


def test_a_context_that_just_fits_is_whole(llm):
    ids = llm.encode(TEXT)
    pair = (ids[:-2], ids[-2:])
    whole, just = (loglikelihoods(llm, [pair], max_length=n) for n in (MAX_LENGTH, len(ids) - 1))
    assert whole == just


@pytest.mark.parametrize(
    ("pair", "max_length", "message"),
    [
        (([], [5]), 16, "context has no tokens"),
        (([5], []), 16, "continuation has no tokens"),
        (([5], [6] * 17), 16, "17 tokens; max_length = 16"),
        (([5], [6]), MAX_LENGTH + 2, f"max_length={MAX_LENGTH + 1}"),
    ],
)
def test_what_cannot_be_scored_is_refused(llm, pair, max_length, message):
    with pytest.raises(fj.RequestError, match=message):
        loglikelihoods(llm, [pair], max_length=max_length)


def test_generation_arguments_become_sampling_params(llm):
    def params(**arguments):
        return sampling_params(arguments, llm.tokenizer, 256, 7)

    plain = params()
    assert (plain.max_tokens, plain.temperature, plain.seed) == (256, 0.0, 7)
    assert plain.stop == ("</s>",)
    assert plain.stop_token_ids == (2,)
    assert params(until=["a", "</s>"]).stop == ("a", "</s>")
    assert params(until="a").stop == ("a", "</s>")
    assert params(max_tokens=3, max_gen_toks=4).max_tokens == 4
    assert params(do_sample=False, temperature=0.7).temperature == 0.0
    assert params(temperature=0.7, top_p=0.5, top_k=3).top_p == 0.5
    assert params(do_sample=True, temperature=0.7).temperature == 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"do_sample": True}, "temperature above 0"),
        ({"until": [""]}, "stop string"),
        ({"max_gen_toks": MAX_LENGTH}, "no room"),
        ({"top_p": 7}, "top_p is 7"),
    ],
)
def test_wrong_generation_arguments_are_refused(llm, arguments, message):
    with pytest.raises(fj.RequestError, match=message):
        generate_texts(llm, [([1, 2], arguments)], max_length=MAX_LENGTH)


def test_a_context_leaves_room_for_what_is_generated(llm):
    """Of 10 tokens that are seen, 8 are to be generated: two of the context are left."""
    ids, arguments = llm.encode(TEXT), {"max_gen_toks": 8}
    texts = truncates(lambda: generate_texts(llm, [(ids, arguments)], max_length=10))
    assert texts == generate_texts(llm, [(ids[-2:], arguments)], max_length=10)
    assert texts != generate_texts(llm, [(ids[-3:], arguments)], max_length=11)


def test_a_text_ends_before_the_first_of_its_stop_strings():
    assert cut_at("one two three", ["three", "two", "</s>"]) == "one "
    assert cut_at("one", []) == "one"


def test_a_sampled_request_is_repeatable_and_its_repeat_is_another(model):
    request = SimpleNamespace(args=(TEXT, {"temperature": 1.0, "max_gen_toks": 12}))
    first, second = model.generate_until([request, request], disable_tqdm=True)
    assert first != second
    assert model.generate_until([request], disable_tqdm=True) == [first]


def test_a_text_that_begins_with_the_prefix_gets_no_second_one(llm):
    model = EngineModel(llm)
    ids = model.tok_encode("a")
    assert ids[0] == llm.tokenizer.bos_token_id == model.prefix_token_id
    assert model.tok_encode("<s>a") == ids
    assert model.tok_encode("a", add_special_tokens=False) == ids[1:]
    assert EngineModel(llm, add_bos_token=False).tok_encode("a") == ids[1:]
    assert EngineModel(llm, add_bos_token=True).tok_encode("a") == ids


def test_edits_reach_every_request(llm):
    edited = EngineModel(llm, max_length=MAX_LENGTH, taps=fj.edits.ablate_mlp([2]))
    pair = (None, *(lambda ids: (ids[:5], ids[5:]))(llm.encode(TEXT)))
    ((plain, _),) = EngineModel(llm)._loglikelihood_tokens([pair], disable_tqdm=True)
    ((changed, _),) = edited._loglikelihood_tokens([pair], disable_tqdm=True)
    expected = llm.score([llm.encode(TEXT)], taps=edited.taps)[0].logprobs[5:].sum()
    assert abs(changed - plain) > 0.1
    assert abs(changed - expected) < TOLERANCE
    assert edited.get_model_info()["model_edited_sites"] == sorted(edited.taps.edits)


NEEDS_LM_EVAL = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'ferrum-jax[eval]'"
)


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_its_model_says_what_to_install():
    import ferrum_jax.research.lm_eval as package

    with pytest.raises(fj.UnsupportedError, match=r"pip install 'ferrum-jax\[eval\]'"):
        _ = package.FerrumLM


@NEEDS_LM_EVAL
def test_the_entry_point_is_the_model_and_splits_texts_as_hf_does(llm):
    (entry,) = entry_points(group="lm_eval.models", name="ferrum_jax")
    made = entry.load()
    assert entry.value == f"{made.__module__}:{made.__name__}"
    for golden in GOLDEN["runs"].values():
        model = made(llm, max_length=MAX_LENGTH, **golden["model_args"])
        for kind in ("loglikelihood", "loglikelihood_rolling"):
            asked = [r for r in golden["requests"] if r["kind"] == kind]
            requests = [SimpleNamespace(args=tuple(r["arguments"])) for r in asked]
            with warnings.catch_warnings(action="ignore"):
                answers = getattr(model, kind)(requests, disable_tqdm=True)
            for request, answer in zip(asked, answers, strict=True):
                np.testing.assert_allclose(answer, request["answer"], atol=TOLERANCE, rtol=0)


@cache
def discovers_plugins():
    """Whether this lm-eval looks for the models of installed packages."""
    from lm_eval.api import registry

    return hasattr(registry, "load_plugins")


@NEEDS_LM_EVAL
@pytest.mark.parametrize("module", ["ferrum_jax.research.lm_eval", "lm_eval"])
def test_the_command_answers_as_hf_does(module, tmp_path):
    """The real command over the tasks, its samples against the golden file."""
    if module == "lm_eval" and not discovers_plugins():
        pytest.skip("this release of lm-eval does not look for the models of installed packages")
    options = {
        "model": "ferrum_jax",
        "model_args": f"pretrained=demo,dtype=float32,max_length={MAX_LENGTH},max_num_seqs=4",
        "tasks": "fj_cloze,fj_prior,fj_perplexity,fj_prose,fj_code",
        "include_path": str(HERE / "lm_eval_tasks"),
        "output_path": str(tmp_path),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", module, *words, "--log_samples"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (results,) = tmp_path.glob("*/results_*.json")
    config = json.loads(results.read_text())["config"]
    assert config["model_dtype"] == "float32"
    assert config["ferrum_jax"]["versions"]["jax"] == jax.__version__
    expected = {to_key(r["arguments"]): r for r in GOLDEN["runs"]["default"]["requests"]}
    answered = set()
    for arguments, answer in samples(tmp_path):
        request = expected[to_key(arguments)]
        answered.add(to_key(arguments))
        if request["kind"] == "generate_until":
            assert answer == request["answer"]
        elif request["kind"] == "loglikelihood":
            assert math.isclose(float(answer[0]), request["answer"][0], abs_tol=TOLERANCE)
            assert str(answer[1]) == str(request["answer"][1])
        else:
            assert math.isclose(float(answer), request["answer"], abs_tol=TOLERANCE)
    assert answered == set(expected)


def to_key(arguments):
    return json.dumps(arguments)


def samples(folder):
    """`(arguments, answer)` of every request that lm-eval has logged."""
    for path in folder.glob("*/samples_*.jsonl"):
        for line in path.read_text().splitlines():
            sample = json.loads(line)
            for arguments, answers in zip(
                sample["arguments"].values(), sample["resps"], strict=True
            ):
                yield list(arguments.values()), answers[0]
