"""The shortest job first; waiting makes up for length."""

from tests.scheduler.helpers import Bench, engine


def bench(*, ageing: float = 1e6, num_pages: int = 20, **settings) -> Bench:
    options = {"policy": "sjf", "ageing": ageing, "max_num_seqs": 1, **settings}
    return Bench(engine(**options), num_pages=num_pages)


def ends(b: Bench) -> list[int]:
    order: list[int] = []
    while b.scheduler.has_work:
        b.step()
        order += [i for i, s in enumerate(b.sequences) if s.finished and i not in order]
    return order


def test_the_least_work_goes_first_prompt_and_generation_together():
    b = bench()
    for prompt_len, max_tokens in ((10, 10), (2, 4), (12, 1), (1, 30), (2, 3)):
        b.add(prompt_len, max_tokens)
    assert ends(b) == [4, 1, 2, 0, 3]
    b.check_all_ended()


def test_a_job_that_generates_nothing_is_as_long_as_its_prompt():
    b = bench()
    b.add(6, 4)
    b.add(9, score_only=True)
    assert ends(b) == [1, 0]


def test_equal_jobs_go_by_arrival():
    b = bench()
    b.add(4, 4, arrival=2.0)
    b.add(4, 4, arrival=1.0)
    assert ends(b) == [1, 0]


def test_the_most_work_left_gives_way():
    b = bench(num_pages=6, max_num_seqs=4)
    long, short = b.add(4, 16), b.add(8, 8)
    assert b.step_until_preempted().preempted == (long,)
    b.run()
    assert short.num_preemptions == 0
    b.check_all_ended()


def test_a_long_job_under_an_endless_stream_of_short_ones_ends():
    """100 seconds make up for 1,000 tokens: the 50 tokens more of the long one for 5 seconds."""
    b = bench(ageing=100.0, run_ahead=False, num_pages=30)
    long = b.add(40, 13, arrival=0.0)
    second = 0
    while long.slot is None and second < 100:
        b.add(1, 2, arrival=float(second))
        b.step()
        second += 1
    assert 5 <= second <= 15
    b.run()
    b.check_all_ended()
