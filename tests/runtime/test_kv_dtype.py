"""Every dtype of the KV-cache through the engine: text, logprobs, memory, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.weights.save import save_weights
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.types import DataType, StepShape

pytestmark = pytest.mark.every_case
GREEDY = fj.SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)
TOLERANCE = {"float32": 2e-6, "bfloat16": 0.01, "float16": 2e-3, "int8": 0.02, "fp8": 0.1}
"""How far the tiny model's logprobs may lie from the full forward's, in nats, root mean square."""
QUANTISED = ("int8", "fp8")


def prompts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 4096, rng.integers(1, 40)).tolist() for _ in range(count)]


def tokens(outputs):
    return [c.token_ids for output in outputs for c in output.outputs]


@pytest.fixture(scope="module")
def texts():
    return prompts(4, seed=9)


@pytest.fixture(scope="module")
def full_logprobs(shared_llm, texts):
    """The float32 logprobs of the texts' tokens, without any cache."""
    found = []
    for ids in texts:
        logits = jnp.asarray(shared_llm.logits(ids))
        found.append(np.asarray(jax.nn.log_softmax(logits))[np.arange(len(ids) - 1), ids[1:]])
    return found


@pytest.mark.parametrize("kv_dtype", TOLERANCE)
def test_logprobs_are_near_those_of_the_full_forward(make_llm, kv_dtype, texts, full_logprobs):
    with make_llm(kv_dtype=kv_dtype) as llm:
        assert llm.engine.kv.dtype is DataType.parse_cache(kv_dtype)
        scores = llm.score(texts)
    pairs = zip(scores, full_logprobs, strict=True)
    errors = np.concatenate([score.logprobs[1:] - expected for score, expected in pairs])
    assert np.sqrt(np.mean(errors**2)) < TOLERANCE[kv_dtype]
    assert np.abs(errors).max() < 5 * TOLERANCE[kv_dtype]


@pytest.mark.parametrize("kv_dtype", TOLERANCE)
def test_greedy_text_does_not_depend_on_neighbours(make_llm, kv_dtype):
    batch = prompts(9)
    with make_llm(kv_dtype=kv_dtype) as llm:
        together = tokens(llm.generate(batch, GREEDY))
        alone = [tokens(llm.generate([prompt], GREEDY))[0] for prompt in batch]
        assert llm.engine.free_pages == llm.engine.kv.num_pages - 1
    assert all(len(ids) == 12 for ids in together)
    assert together == alone


SETTINGS = {
    "small chunks": {"max_num_batched_tokens": 8},
    "preempting": {"num_pages": 24},
    "swapping": {"num_pages": 24, "preemption": "swap"},
    "prefix cache": {"prefix_caching": True},
}


@pytest.mark.parametrize("kv_dtype", QUANTISED)
def test_greedy_text_does_not_depend_on_the_settings_of_the_engine(make_llm, kv_dtype):
    batch = prompts(9, seed=3)
    with make_llm(kv_dtype=kv_dtype) as llm:
        expected = tokens(llm.generate(batch, GREEDY))
    for name, changes in SETTINGS.items():
        with make_llm(kv_dtype=kv_dtype, **changes) as llm:
            assert tokens(llm.generate(batch, GREEDY)) == expected, name
            assert tokens(llm.generate(batch, GREEDY)) == expected, f"{name}, again"


@pytest.mark.parametrize("kv_dtype", QUANTISED)
def test_batch_invariance_holds_bit_for_bit(make_llm, kv_dtype, optimised):
    texts = prompts(5, seed=6)
    scores = []
    for budget in (32, 8):
        with make_llm(
            kv_dtype=kv_dtype, batch_invariant=True, max_num_batched_tokens=budget
        ) as llm:
            scores.append(llm.score(texts))
            alone = [llm.score([ids])[0] for ids in texts[:2]]
            for one, other in zip(alone, scores[-1], strict=False):
                np.testing.assert_array_equal(one.logprobs, other.logprobs)
    for one, other in zip(*scores, strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)


@pytest.mark.parametrize("kv_dtype", QUANTISED)
def test_decode_reads_what_scoring_reads(make_llm, kv_dtype):
    """Keys of the same step are read quantised too, so one pass equals one token at a time."""
    prompt = prompts(1, seed=4)[0]
    with make_llm(kv_dtype=kv_dtype) as llm:
        output = llm.generate([prompt], GREEDY)[0].outputs[0]
        score = llm.score([prompt + output.token_ids])[0]
    decoded = [table[t].logprob for table, t in zip(output.logprobs, output.token_ids, strict=True)]
    np.testing.assert_allclose(decoded, score.logprobs[len(prompt) :], atol=1e-5)


@pytest.mark.parametrize("kv_dtype", [*QUANTISED, "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [StepShape(1, 1), StepShape(4, 4), StepShape(32, 4)], ids=str)
def test_the_step_holds_no_second_cache(make_llm, kv_dtype, shape, optimised):
    with make_llm(kv_dtype=kv_dtype, num_pages=40_000) as llm:
        cache = llm.engine.executor.cache
        cache_bytes = sum(x.nbytes for x in jax.tree.leaves(cache))
        memory = llm.engine.executor.memory_analysis(shape)
    head_bytes = 8 + 4 if kv_dtype in QUANTISED else 16
    assert cache_bytes == cache.nbytes == 40_000 * 4 * 2 * 2 * 2 * head_bytes
    assert memory.alias_size_in_bytes >= cache_bytes, "the cache is not donated"
    assert memory.temp_size_in_bytes < cache_bytes / 4


@pytest.mark.parametrize("kv_dtype", QUANTISED)
def test_nan_in_one_request_ends_it_and_no_other(make_llm, kv_dtype):
    bad, batch = 4000, prompts(3, seed=5)
    with make_llm(kv_dtype=kv_dtype) as llm:
        clean = tokens(llm.generate(batch, GREEDY))
        # v of that token, and through it everything that attends to it, is not finite.
        llm.params = replace(llm.params, embed=llm.params.embed.at[bad].set(jnp.nan))
        llm.close()
        outputs = llm.generate([[bad, *batch[0]], *batch], GREEDY)
    assert [c.finish_reason for output in outputs for c in output.outputs] == [
        "error",
        *["length"] * 3,
    ]
    assert tokens(outputs)[1:] == clean


@pytest.mark.parametrize("name", ["int8", "fp8", "float8_e4m3fn"])
def test_weights_in_eight_bits_are_refused_by_name(name, tmp_path, llm):
    says = f"dtype '{name}' is for EngineConfig.kv_dtype only; .* float32, bfloat16, float16$"
    with pytest.raises(fj.ConfigError, match=says):
        fj.LLM.load("demo", dtype=name)
    with pytest.raises(fj.ConfigError, match=says):
        fj.load_model(DEMO_MODEL, dtype=name)
    with pytest.raises(fj.ConfigError, match=says):
        save_weights(llm.config, llm.params, tmp_path, dtype=name)
    assert not list(tmp_path.iterdir())


def test_an_unknown_dtype_names_the_choices():
    with pytest.raises(fj.ConfigError, match=r"'int4' is not known; .* float32, bfloat16, float16"):
        fj.load_model(DEMO_MODEL, dtype="int4")
