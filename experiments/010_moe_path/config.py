"""What is timed, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """One matmul of a mixture of experts, float32, every path in every turn."""

    tokens: tuple[int, ...] = (1, 8, 64, 512)
    experts: tuple[tuple[int, int], ...] = ((8, 2), (64, 8), (128, 8))
    """experts, and how many of them a token goes through"""
    inputs: int = 512
    outputs: int = 256
    tiles: tuple[int, ...] = (1, 4, 16, 64)
    """rows of a tile that are tried beside the one that is chosen"""
    largest: int = 1500 * 2**20
    """bytes of a path's largest temporary array, above which it is left out"""
    turns: int = 9
    seed: int = 0
