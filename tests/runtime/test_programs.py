"""The programs of a step: made once, in threads, what follows behind what is needed now."""

import threading

import pytest

from ferrum_jax.runtime.programs import Programs, Recipe
from ferrum_jax.types import StepShape

PROMPT, DECODE = StepShape(tokens=16, rows=1), StepShape(tokens=1, rows=1)
PATIENCE = 30


class Lowered:
    def __init__(self, name, compiled=None):
        self.name, self.compiled = name, compiled

    def compile(self, compiler_options):
        if self.compiled is not None:
            self.compiled()
        return self.name, compiler_options


def test_a_program_does_not_wait_for_the_one_behind_it():
    asked, order = threading.Event(), []

    def recipe(shape):
        def lower():
            order.append(shape)
            if shape == DECODE:
                assert asked.wait(PATIENCE)
            return Lowered(shape.tokens)

        return Recipe(lower, {"few": shape == DECODE})

    programs = Programs(recipe)
    assert programs.of(PROMPT, lambda: (DECODE,)) == (16, {"few": False})
    asked.set()
    assert programs.of(DECODE, pytest.fail) == (1, {"few": True})
    assert order == [PROMPT, DECODE]
    assert list(programs.seconds) == [PROMPT, DECODE]


def test_the_seconds_wait_for_what_is_being_made():
    begun = threading.Event()

    def recipe(shape):
        return Recipe(lambda: Lowered(shape, lambda: begun.wait(0.2)), {})

    programs = Programs(recipe)
    programs.make((PROMPT,))
    programs.of(DECODE, lambda: (StepShape(tokens=2, rows=2),))
    assert len(programs.seconds) == 3
    assert all(seconds >= 0.2 for seconds in programs.seconds.values())


def test_what_fails_is_raised_where_it_is_needed_and_tried_again():
    tries = []

    def recipe(shape):
        def lower():
            tries.append(shape)
            if shape == DECODE and tries.count(DECODE) == 1:
                raise MemoryError("no room")
            return Lowered(shape.tokens)

        return Recipe(lower, {})

    programs = Programs(recipe)
    assert programs.of(PROMPT, lambda: (DECODE,))[0] == 16
    with pytest.raises(MemoryError, match="no room"):
        programs.of(DECODE)
    assert list(programs.seconds) == [PROMPT]
    assert programs.of(DECODE)[0] == 1
    assert tries == [PROMPT, DECODE, DECODE]


def test_each_is_made_once():
    made = []

    def recipe(shape):
        made.append(shape)
        return Recipe(lambda: Lowered(shape.tokens), {})

    programs = Programs(recipe)
    programs.make((PROMPT, DECODE, PROMPT))
    programs.make((DECODE,))
    assert programs.of(PROMPT, lambda: (DECODE,))[0] == 16
    assert made == [PROMPT, DECODE]
