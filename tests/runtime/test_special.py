"""Which sequences need more of a step than the next token, by the slots that they have."""

import ferrum_jax as fj
from ferrum_jax.runtime.special import SpecialSlots
from ferrum_jax.types import Request, Schedule, ScheduledChunk, Sequence


def sequence(slot, prompt_len=6, score_from=1, **params):
    prompt = tuple(range(prompt_len))
    request = Request(slot, prompt, fj.SamplingParams(**params), score_from=score_from)
    return Sequence(request, 0, 20, slot=slot)


def step(*chunks):
    return Schedule.of(tuple(ScheduledChunk(*chunk) for chunk in chunks))


def test_plain_sequences_need_nothing():
    special, plain = SpecialSlots(), sequence(0, temperature=0.7)
    special.put(plain)
    whole = step((plain, 0, 6, True))
    assert not special.guided(whole)
    assert not special.score(whole)
    assert not special.process(whole)


def test_a_prompt_is_scored_as_long_as_it_has_a_next_token():
    special, scored = SpecialSlots(), sequence(1, score_from=3, prompt_logprobs=0)
    special.put(scored)
    assert not special.score(step((scored, 0, 2, False)))
    assert special.score(step((scored, 2, 2, False)))
    assert not special.score(step((scored, 5, 1, True)))


def test_only_what_samples_or_scores_is_processed():
    special, cut = SpecialSlots(), sequence(2, top_p=0.5)
    special.put(cut)
    assert not special.process(step((cut, 0, 3, False)))
    assert special.process(step((cut, 3, 3, True)))
    scored = sequence(3, top_p=0.5, prompt_logprobs=0, logprobs_mode="processed")
    special.put(scored)
    assert special.process(step((scored, 0, 3, False)))


def test_guided_sequences_that_sample_are_named():
    special = SpecialSlots()
    guided = sequence(0, guided={"choice": ["yes", "no"]})
    special.put(guided)
    assert special.guided(step((guided, 0, 3, False))) == []
    assert special.guided(step((guided, 3, 3, True))) == [guided]


def test_a_slot_forgets_its_last_owner():
    special, cut, plain = SpecialSlots(), sequence(4, top_p=0.5), sequence(4)
    special.put(cut)
    special.put(plain)
    assert not special.process(step((plain, 0, 6, True)))
