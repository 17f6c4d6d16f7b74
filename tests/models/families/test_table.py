"""Every family's table of weights, against the checkpoints that transformers writes."""

import pytest

from ferrum_jax.models.families import family_of, read_config
from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.models.weights.naming import BUFFERS
from tests.parity.golden import case_names, load_case


@pytest.mark.parametrize("name", case_names())
def test_every_parameter_has_a_source_and_every_tensor_a_place(name):
    golden = load_case(name)
    config = read_config(golden.config, name)
    shapes, table = flatten_shapes(config), family_of(config.model_type, name).names(config)
    stored = {
        tensor: tuple(source.stored_shape(shapes[key], index))
        for key, source in table.items()
        for index, tensor in enumerate(source.names)
    }
    assert table.keys() == shapes.keys()
    assert stored == {
        tensor: tuple(shape)
        for tensor, (shape, _) in golden.tensors.items()
        if not tensor.endswith(BUFFERS)
    }
