"""Several decode steps as one dispatch bring the tokens of single steps, whatever is asked."""

from dataclasses import replace

import jax
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from tests.runtime import hybrids
from tests.runtime.models import completions, idle, make_llm

ENGINE = fj.EngineConfig(
    page_size=4, num_pages=80, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32
)
MANY = replace(ENGINE, decode_steps=8)
EVERY_CASE = pytest.mark.every_case
GREEDY = fj.SamplingParams(max_tokens=21, temperature=0, ignore_eos=True)
PARAMS = {
    "greedy": GREEDY,
    "random": replace(GREEDY, temperature=1.0, seed=3, top_p=0.9, repetition_penalty=1.2),
    "logprobs": replace(GREEDY, logprobs=2, temperature=0.8, seed=4),
    "mirostat": replace(GREEDY, temperature=1.0, seed=5, mirostat={"mode": 2, "tau": 3.0}),
    "several": replace(GREEDY, temperature=1.0, seed=6, n=2, max_tokens=9),
}
PROMPTS = [[5, 6, 7 + i] * (1 + i) for i in range(5)]


@pytest.fixture(scope="module")
def one():
    with make_llm("dense", ENGINE) as llm:
        yield llm


@pytest.fixture(scope="module")
def many():
    with make_llm("dense", MANY) as llm:
        yield llm
        assert idle(llm)


def tokens(outputs):
    return [c.token_ids for output in outputs for c in output.outputs]


def steps_taken(llm, run):
    before = llm.metrics.snapshot()
    found = run()
    after = llm.metrics.snapshot()
    assert idle(llm)
    return (
        found,
        after.num_steps - before.num_steps,
        after.generated_tokens - before.generated_tokens,
    )


@pytest.mark.parametrize("kind", PARAMS)
def test_the_tokens_are_those_of_single_steps(one, many, kind):
    """More requests than slots: some start while others are in the middle of theirs."""
    params = PARAMS[kind]
    expected, singly, sampled = steps_taken(one, lambda: one.generate(PROMPTS, params))
    found, together, again = steps_taken(many, lambda: many.generate(PROMPTS, params))
    assert tokens(found) == tokens(expected)
    assert again == sampled
    assert together < 0.6 * singly
    if kind == "logprobs":
        for a, b in zip(found, expected, strict=True):
            for mine, theirs in zip(a.outputs[0].logprobs, b.outputs[0].logprobs, strict=True):
                assert mine.keys() == theirs.keys()
                for token in mine:
                    assert mine[token].rank == theirs[token].rank
                    assert mine[token].logprob == pytest.approx(theirs[token].logprob, abs=2e-5)


def test_a_stop_token_in_the_middle_ends_it_there(one, many):
    whole = one.generate([PROMPTS[0]], GREEDY)[0].outputs[0].token_ids
    last = next(token for i, token in enumerate(whole) if i > 3 and token not in whole[:i])
    params = replace(GREEDY, stop_token_ids=(last,))
    for llm in (one, many):
        completion = llm.generate([PROMPTS[0]], params)[0].outputs[0]
        assert completion.token_ids == whole[: whole.index(last) + 1]
        assert completion.finish_reason == "stop"
        assert idle(llm)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"run_ahead": False}, id="not ahead", marks=EVERY_CASE),
        pytest.param({"num_pages": 20}, id="preempting"),
        pytest.param({"num_pages": 20, "preemption": "swap"}, id="swapping", marks=EVERY_CASE),
        pytest.param({"prefix_caching": True}, id="shared prefixes"),
        pytest.param({"decode_steps": 3}, id="three", marks=EVERY_CASE),
    ],
)
def test_other_settings_change_nothing(one, changes):
    expected = tokens(one.generate(PROMPTS, PARAMS["random"]))
    with make_llm("dense", replace(MANY, **changes)) as llm:
        outputs = llm.generate(PROMPTS, PARAMS["random"])
        assert idle(llm)
    assert tokens(outputs) == expected
    if "num_pages" in changes:
        assert sum(output.metrics.num_preemptions for output in outputs) > 0


@pytest.mark.parametrize("kind", ["mamba2", pytest.param("gated delta", marks=EVERY_CASE)])
def test_recurrent_states_go_on_from_step_to_step(kind):
    config = hybrids.model(kind)
    params = init_params(config, seed=1)
    found = []
    for engine in (ENGINE, MANY):
        with fj.LLM(config, params, engine=engine) as llm:
            found.append(tokens(llm.generate(PROMPTS, GREEDY)))
    assert found[0] == found[1]


def test_a_stream_brings_a_few_tokens_at_a_time(many):
    deltas = list(many.stream(PROMPTS[0], GREEDY))
    sizes = [len(delta.token_ids) for delta in deltas]
    assert sum(sizes) == 21
    assert max(sizes) <= 8
    assert tokens(many.generate([PROMPTS[0]], GREEDY))[0] == [
        token for delta in deltas for token in delta.token_ids
    ]


def test_what_the_host_looks_at_runs_in_single_steps(many):
    """An edit, and beside it a request without: both one token at a time, as long as it runs."""
    engine = many.engine
    zero = fj.edits.ablate_heads([(0, 0)])
    watched = engine.add(PROMPTS[0], replace(GREEDY, max_tokens=6), taps=zero)
    other = engine.add(PROMPTS[1], GREEDY)
    while not engine.is_done(watched):
        engine.step()
    shapes = [shape for shape in many.compilations if shape.plan]
    assert shapes
    assert all(shape.steps == 1 for shape in shapes)
    completions(engine, other)
    engine.take(watched)


def test_an_abort_between_two_dispatches_frees_everything(many):
    engine = many.engine
    first, second = (engine.add(prompt, GREEDY) for prompt in PROMPTS[:2])
    for _ in range(3):
        engine.step()
    engine.abort(first)
    (completion,) = completions(engine, second)
    engine.take(first)
    assert completion.token_ids == tokens(many.generate([PROMPTS[1]], GREEDY))[0]
    assert idle(many)


def test_rewinding_and_forking_know_every_token(many):
    engine = many.engine
    request = engine.add(PROMPTS[2], GREEDY)
    for _ in range(3):
        engine.step()
    twin = engine.fork(request)
    engine.rewind(request, 2)
    first, second = completions(engine, request, twin)
    assert first.token_ids == second.token_ids == tokens(many.generate([PROMPTS[2]], GREEDY))[0]


def test_no_copy_of_the_cache_is_made(many):
    """The loop carries it in place, as a single step does."""
    executor = many.engine.executor
    shapes = [shape for shape in executor.shapes if shape.steps > 1 and not shape.processes]
    cache = sum(leaf.nbytes for leaf in jax.tree.leaves(executor.cache))
    analysis = executor.memory_analysis(shapes[-1])
    assert analysis.alias_size_in_bytes >= cache
