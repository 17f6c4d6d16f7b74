"""Wrong requests, failing models, interruptions: that request ends, every other goes on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import ferrum_jax as fj

GREEDY = fj.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "no tokens"),
        ([5, -1], "-1"),
        ([5, 4096], "4096"),
        ([5, 1.5], "1.5"),
        ([5, True], "True"),
        ([5] * 128, "128 tokens"),
    ],
)
def test_a_wrong_prompt_is_refused_and_nothing_runs(llm, prompt, says):
    with pytest.raises(fj.RequestError, match=says):
        llm.generate([[7], prompt], GREEDY)
    assert len(llm.generate([[7]], GREEDY)[0].outputs[0].token_ids) == 6


@pytest.mark.parametrize("prompt", [[], [5, 4096], [-1], [5, 1.5], [True]])
def test_the_full_forward_refuses_the_same_prompts(llm, prompt):
    with pytest.raises(fj.RequestError):
        llm.logits(prompt)


def test_the_refused_prompt_is_named(llm):
    with pytest.raises(fj.RequestError, match="prompt 1: the prompt has no tokens"):
        llm.generate([[7], []], GREEDY)


def test_a_prompt_may_fill_the_model_when_it_is_only_scored(llm):
    assert len(llm.score([[5] * 128])[0].logprobs) == 128
    with pytest.raises(fj.RequestError, match="129 tokens"):
        llm.score([[5] * 129])


@pytest.mark.parametrize(
    "params",
    [
        {"logit_bias": {4096: 1.0}},
        {"allowed_token_ids": (4096,)},
        {"stop_token_ids": (9999,)},
    ],
)
def test_token_ids_outside_the_vocabulary(llm, params):
    with pytest.raises(fj.RequestError, match="vocabulary has 4096"):
        llm.generate([[7]], replace(GREEDY, **params))


WRONG = [
    ([5, -1], {}),
    ([5, 4096], {}),
    ([], {}),
    ([5] * 128, {}),
    ([5], {"allowed_token_ids": (1, 4096)}),
    ([5], {"logit_bias": {4096: 1.0}}),
    ([5], {"logprob_token_ids": (4096,)}),
    ([5], {"stop_token_ids": (4096,)}),
    ([5], {"bad_words": ("\ue000 outside",)}),
]


def test_a_wrong_request_leaves_its_neighbours_as_they_are(llm, monkeypatch):
    """Each is refused when it comes, while others run; these end with the same tokens."""
    engine = llm.engine
    (alone,) = (output.outputs[0].token_ids for output in llm.generate([[7, 8]], GREEDY))
    neighbour = engine.add([7, 8], GREEDY)
    engine.step()
    encode = llm.tokenizer.encode

    def outside(text, **options):  # a tokenizer that knows more ids than the model
        return [4096] if "outside" in text else encode(text, **options)

    monkeypatch.setattr(llm.tokenizer, "encode", outside)
    for prompt, params in WRONG:
        before = engine.free_pages
        with pytest.raises(fj.RequestError):
            engine.add(prompt, replace(GREEDY, **params))
        assert engine.free_pages == before
    while engine.has_work:
        engine.step()
    assert engine.take(neighbour).outputs[0].token_ids == alone


def test_a_number_of_params_that_fits_no_prompt(llm):
    with pytest.raises(fj.RequestError, match="2 SamplingParams for 3 prompts"):
        llm.generate([[1], [2], [3]], [GREEDY, GREEDY])


@pytest.mark.parametrize("prompt", [7.5, None, object()])
def test_what_is_no_prompt(llm, prompt):
    with pytest.raises(fj.RequestError, match="a text or a list of token ids"):
        llm.generate([prompt], GREEDY)


def test_no_prompts_give_no_outputs(llm):
    assert llm.generate([], GREEDY) == []
    assert llm.score([]) == []


def test_a_text_without_a_tokenizer(llm):
    bare = fj.LLM(llm.config, llm.params, engine=llm.engine_config)
    with pytest.raises(fj.TokenizerError, match="without a tokenizer"):
        bare.generate("hello", GREEDY)
    output = bare.generate([[5, 6]], GREEDY)[0].outputs[0]
    assert (len(output.token_ids), output.text) == (6, "")


def test_a_prompt_larger_than_all_pages_errors_and_the_next_one_runs(make_llm):
    with make_llm(num_pages=6, max_num_seqs=2) as small:
        with pytest.raises(fj.ResourceExhausted, match="KV pages"):
            small.generate([[5] * 40], GREEDY)
        assert len(small.generate([[5] * 9], GREEDY)[0].outputs[0].token_ids) == 6


def test_nan_fails_only_its_own_request(llm, weights):
    poisoned = weights.replace(embed=weights.embed.at[666].set(jnp.nan))
    sick = fj.LLM(llm.config, poisoned, llm.tokenizer, engine=llm.engine_config)
    outputs = sick.generate([[7, 8], [9, 666, 10], [11]], GREEDY)
    assert [o.outputs[0].finish_reason for o in outputs] == ["length", "error", "length"]
    assert "not finite" in outputs[1].error
    assert outputs[1].outputs[0].token_ids == []
    well = llm.generate([[7, 8], [11]], GREEDY)
    assert [o.outputs[0].token_ids for o in (outputs[0], outputs[2])] == [
        o.outputs[0].token_ids for o in well
    ]
    # Its pages go to others with the nan still in them.
    later = sick.generate([[i] * 9 for i in range(20, 40)], GREEDY)
    assert {o.outputs[0].finish_reason for o in later} == {"length"}


def test_abort_in_every_state_and_twice(llm):
    engine = llm.engine
    long = replace(GREEDY, max_tokens=50)
    ids = [engine.add([5] * 30, long) for _ in range(12)]
    engine.abort(ids[0])  # never scheduled
    engine.step()
    engine.abort(ids[1])  # in flight
    engine.abort(ids[11])  # waiting
    for _ in range(5):
        engine.step()
    engine.abort(ids[2])  # decoding
    for request in ids:
        engine.abort(request)
        engine.abort(request)
        assert engine.take(request).outputs[0].finish_reason == "abort"
        with pytest.raises(fj.RequestError, match="unknown or taken"):
            engine.take(request)
    while engine.has_work:
        engine.step()


def test_taking_a_request_that_still_runs(llm):
    request = llm.engine.add([5], GREEDY)
    with pytest.raises(fj.RequestError, match="still running"):
        llm.engine.take(request)
    llm.engine.abort(request)
    llm.engine.take(request)


def test_ctrl_c_leaves_the_engine_usable(llm, monkeypatch):
    engine, steps = llm.engine, []
    step = engine.step

    def interrupted():
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[5] * 20] * 10, GREEDY)
    monkeypatch.undo()
    while engine.has_work:
        engine.step()
    assert len(llm.generate([[5] * 20], GREEDY)[0].outputs[0].token_ids) == 6


@pytest.mark.parametrize("failure", [KeyboardInterrupt, jax.errors.JaxRuntimeError])
def test_a_step_broken_off_after_its_cache_was_donated(llm, monkeypatch, failure):
    """Even where the device state is lost, the next request runs."""
    engine = llm.engine
    bystander = engine.add([9] * 20, GREEDY)
    expected = llm.generate([[5] * 20], GREEDY)[0].outputs[0].token_ids
    engine.take(bystander)
    bystander = engine.add([9] * 20, replace(GREEDY, max_tokens=50))
    execute, calls = engine.executor.execute, []

    def broken(schedule):
        output = execute(schedule)
        calls.append(1)
        if len(calls) == 3:
            jax.tree.map(lambda x: x.delete(), engine.executor.cache)
            raise failure("lost")
        return output

    monkeypatch.setattr(engine.executor, "execute", broken)
    raised = KeyboardInterrupt if failure is KeyboardInterrupt else fj.DeviceError
    with pytest.raises(raised, match="lost"):
        llm.generate([[5] * 20], replace(GREEDY, max_tokens=50))
    monkeypatch.undo()
    assert llm.generate([[5] * 20], GREEDY)[0].outputs[0].token_ids == expected
    assert "broken off" in engine.take(bystander).error


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"page_size": 0}, fj.ConfigError, "page_size"),
        ({"page_size": 2.0}, fj.ConfigError, "page_size"),
        ({"num_pages": 1}, fj.ConfigError, "num_pages"),
        ({"memory_fraction": 0}, fj.ConfigError, "memory_fraction"),
        ({"memory_fraction": float("nan")}, fj.ConfigError, "memory_fraction"),
        ({"max_num_seqs": True}, fj.ConfigError, "max_num_seqs"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, fj.ConfigError, "raise the first"),
        ({"policy": "lottery"}, fj.ConfigError, "choose one of fcfs"),
        ({"quantum": 0}, fj.ConfigError, "quantum"),
        ({"max_waiting": 0}, fj.ConfigError, "max_waiting"),
        ({"ageing": 0}, fj.ConfigError, "ageing.*above 0"),
        ({"ageing": float("nan")}, fj.ConfigError, "ageing"),
        ({"swap_space": -1}, fj.ConfigError, "swap_space.*from 0"),
        ({"preemption": "drop"}, fj.ConfigError, "recompute, swap"),
        ({"eviction": "random"}, fj.ConfigError, "lru, fifo, clock"),
        ({"prefix_caching": "yes"}, fj.ConfigError, "True or False"),
        ({"client_weights": {"a": 0}}, fj.ConfigError, "client_weights.*above 0"),
        ({"client_weights": "abc"}, fj.ConfigError, "client_weights"),
        ({"kv_dtype": "int3"}, fj.ConfigError, "int3"),
        ({"attention": "cudnn"}, fj.ConfigError, "auto, xla, triton, mosaic"),
        ({"speculative": 3}, fj.ConfigError, "speculative"),
        ({"speculative": ""}, fj.ConfigError, "draft"),
        ({"quantization": "int3"}, fj.ConfigError, "quantization"),
    ],
)
def test_engine_configs(settings, error, says):
    with pytest.raises(error, match=says):
        fj.EngineConfig(**settings)
