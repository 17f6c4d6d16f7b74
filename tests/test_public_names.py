"""`import ferrum_jax as fj`: every promised name, and help with a mistyped one."""

import pytest

import ferrum_jax as fj
from ferrum_jax import types


@pytest.mark.parametrize("name", fj.__all__)
def test_every_name_resolves(name):
    assert getattr(fj, name) is not None
    assert name in dir(fj)


def test_every_error_class_is_public():
    errors = {
        name
        for name, value in vars(types).items()
        if isinstance(value, type) and issubclass(value, types.FerrumError)
    }
    assert errors <= set(fj.__all__)
    assert fj.RequestError is types.RequestError


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [("SampligParams", "SamplingParams"), ("llm", "LLM"), ("load_modle", "load_model")],
)
def test_a_mistyped_name_gets_the_closest_match(mistyped, meant):
    with pytest.raises(AttributeError, match=f"'{mistyped}'; did you mean '{meant}'"):
        getattr(fj, mistyped)


def test_an_unlike_name_gets_no_guess():
    with pytest.raises(AttributeError, match=r"no attribute 'zzzzzz'$"):
        fj.zzzzzz  # noqa: B018
