"""Moments of a stream of activations, exact to rounding whatever its chunks.

Dimension key: n tokens of a chunk (`[n, *C]`), `*C` the channels of a site (its shape without the
tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int, Num


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over tokens, per channel; `a + b` is of both streams. All float64.

    Central sums are merged by the pairwise formulas of Chan, Golub and LeVeque (1979), carried to
    the fourth power by Pebay (2008, Sandia report SAND2008-6212), which lose no digits to a mean
    that is large against the spread.
    """

    count: int
    mean: Float[np.ndarray, "*C"]
    m2: Float[np.ndarray, "*C"]
    """Sum of (x - mean)^2; m3 and m4 likewise of the third and fourth power."""
    m3: Float[np.ndarray, "*C"]
    m4: Float[np.ndarray, "*C"]
    absmax: Float[np.ndarray, "*C"]
    zeros: Int[np.ndarray, "*C"]

    @classmethod
    def of(cls, chunk: Num[np.ndarray, "n ..."]) -> Self:
        """Of the activations of some tokens, at least one."""
        x = np.asarray(chunk, np.float64)
        mean = x.mean(axis=0)
        deviation = x - mean
        square = deviation * deviation
        return cls(
            count=len(x),
            mean=mean,
            m2=square.sum(axis=0),
            m3=(square * deviation).sum(axis=0),
            m4=(square * square).sum(axis=0),
            absmax=np.abs(x).max(axis=0),
            zeros=(x == 0).sum(axis=0),
        )

    def __add__(self, other: Moments) -> Moments:
        a, b = self.count, other.count
        n = a + b
        d = other.mean - self.mean
        return Moments(
            count=n,
            mean=self.mean + d * b / n,
            m2=self.m2 + other.m2 + d**2 * a * b / n,
            m3=self.m3
            + other.m3
            + d**3 * a * b * (a - b) / n**2
            + 3 * d * (a * other.m2 - b * self.m2) / n,
            m4=self.m4
            + other.m4
            + d**4 * a * b * (a * a - a * b + b * b) / n**3
            + 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2
            + 4 * d * (a * other.m3 - b * self.m3) / n,
            absmax=np.maximum(self.absmax, other.absmax),
            zeros=self.zeros + other.zeros,
        )

    def pooled(self) -> Moments:
        """Of the values of all channels together, as one channel."""
        n, mean = self.count, self.mean.mean()
        d = self.mean - mean
        return Moments(
            count=n * self.mean.size,
            mean=np.asarray(mean),
            m2=np.asarray((self.m2 + n * d**2).sum()),
            m3=np.asarray((self.m3 + 3 * d * self.m2 + n * d**3).sum()),
            m4=np.asarray((self.m4 + 4 * d * self.m3 + 6 * d**2 * self.m2 + n * d**4).sum()),
            absmax=np.asarray(self.absmax.max()),
            zeros=np.asarray(self.zeros.sum()),
        )
