"""First come, first served."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from ferrum_jax.types import RequestState, Sequence

_age = attrgetter("request.arrival", "request.request_id", "index")


class FCFSPolicy:
    """The oldest request goes first, and the youngest gives way.

    The oldest sequence thus never loses its pages to another: it always ends.
    """

    def order(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """By arrival; those that were preempted before those that never ran."""
        by_age = sorted(waiting, key=_age)
        # Sorting is stable: within both groups the age still counts.
        return sorted(by_age, key=lambda s: s.state is not RequestState.PREEMPTED)

    def victim(self, running: Iterable[Sequence]) -> Sequence | None:
        """The one that arrived last; None when nothing runs."""
        return max(running, key=_age, default=None)
