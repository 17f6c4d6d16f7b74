"""One model, shared."""

import pytest

import ferrum_jax as fj
from tests.research.gradients.models import CONFIG, ENGINE, make_params


@pytest.fixture(scope="session")
def llm():
    return fj.LLM(CONFIG, make_params(), engine=ENGINE)
