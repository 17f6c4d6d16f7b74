"""The scheduler takes no arrays: without their checks, costs here are those of real runs."""

import pytest
from jaxtyping import config


@pytest.fixture(autouse=True, scope="package")
def no_array_checks():
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
