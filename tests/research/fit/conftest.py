"""One model, shared."""

import pytest

from tests.research.fit.models import make_llm


@pytest.fixture(scope="session")
def llm():
    return make_llm()
