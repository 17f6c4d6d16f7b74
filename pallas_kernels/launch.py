"""How the kernels are started: on arrays that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu


def launch(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    operands: tuple[Any, ...],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    name: str,
    num_warps: int,
    num_stages: int,
    interpret: bool,
    overwrites: int = 0,
) -> Any:
    """Run a kernel over a grid; it reads what it needs of its operands, which may be trees.

    Args:
        overwrites: so many leading arrays among the operands are the results before the kernel;
            what it does not write stays as it was.
    """
    where = pl.BlockSpec(memory_space=pl.ANY)
    return pl.pallas_call(
        kernel,
        list(results),
        grid=grid,
        in_specs=jax.tree.map(lambda _: where, operands),
        out_specs=[where for _ in results],
        input_output_aliases={index: index for index in range(overwrites)},
        compiler_params=plgpu.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        interpret=interpret,
        name=name,
    )(*operands)
