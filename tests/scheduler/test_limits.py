"""A request that could never run is refused before it waits."""

import pytest

from ferrum_jax.scheduler import check_fits, sequence_limit
from ferrum_jax.types import RequestError, ResourceExhausted, SchedulerError, Sequence
from tests.scheduler.helpers import Bench, engine


def test_a_prompt_larger_than_all_pages_names_value_limit_and_remedy():
    blocks = Bench(engine(), num_pages=4).blocks
    check_fits(12, engine(), blocks)
    with pytest.raises(
        ResourceExhausted, match=r"13 tokens, which need 4 KV pages .* has 3 \(12 .*num_pages"
    ):
        check_fits(13, engine(), blocks)


def test_only_without_chunked_prefill_must_a_prompt_fit_one_step():
    blocks = Bench(engine(), num_pages=9).blocks
    check_fits(9, engine(), blocks)
    whole = engine(chunked_prefill=False)
    check_fits(8, whole, blocks)
    with pytest.raises(RequestError, match=r"9 tokens.*max_num_batched_tokens = 8"):
        check_fits(9, whole, blocks)


@pytest.mark.parametrize(
    ("prompt_len", "max_tokens", "max_model_len", "limit"),
    [(5, 3, 64, 8), (5, 100, 10, 10), (5, 100, 64, 13), (12, 100, 64, 13)],
)
def test_the_limit_is_the_smallest_of_request_model_and_pages(
    prompt_len, max_tokens, max_model_len, limit
):
    blocks = Bench(engine(), num_pages=4).blocks
    assert sequence_limit(prompt_len, max_tokens, max_model_len, blocks) == limit


@pytest.mark.parametrize("run_ahead", [True, False])
@pytest.mark.parametrize("prompt_len", [1, 11, 12])
def test_a_sequence_alone_fills_every_page_and_ends(run_ahead, prompt_len):
    bench = Bench(engine(run_ahead=run_ahead), num_pages=4)
    check_fits(prompt_len, bench.engine, bench.blocks)
    sequence = bench.add(prompt_len, 100)
    bench.run()
    assert (len(sequence.token_ids), sequence.num_scheduled) == (13, 12)
    assert sequence.num_preemptions == 0
    assert bench.blocks.num_free == bench.blocks.num_total == 3


@pytest.mark.parametrize("max_len", [4, 14, 65])
def test_a_sequence_that_could_not_end_is_not_added(max_len):
    bench = Bench(engine(), num_pages=4)
    good = bench.make(4)
    with pytest.raises(SchedulerError, match=f"max_len = {max_len} "):
        bench.scheduler.add(Sequence(good.request, 0, max_len=max_len))
    assert not bench.scheduler.has_work
