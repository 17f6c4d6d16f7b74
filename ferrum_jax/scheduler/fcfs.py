"""First come, first served."""

from __future__ import annotations

from collections.abc import Iterable

from ferrum_jax.types import RequestState, ScheduledChunk, Sequence


class FCFSPolicy:
    """The oldest request goes first, and the youngest gives way.

    The oldest sequence thus never loses its pages to another: it always ends.
    """

    takes_turns = False

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        """By arrival; those that were preempted before those that never ran."""
        fresh = sequence.state is not RequestState.PREEMPTED
        return (fresh, *age(sequence))

    def group(self, sequence: Sequence) -> str:
        del sequence
        return ""

    def group_rank(self, group: str) -> float:
        del group
        return 0.0

    def join(self, sequence: Sequence) -> None:
        pass

    def admit(self, sequence: Sequence) -> None:
        pass

    def serve(self, chunks: Iterable[ScheduledChunk]) -> None:
        pass

    def has_had_its_turn(self, sequence: Sequence) -> bool:
        del sequence
        return False


def age(sequence: Sequence) -> tuple[float, int, int]:
    """The order of arrival; ties by the request, then by the completion."""
    request = sequence.request
    return request.arrival, request.request_id, sequence.index
