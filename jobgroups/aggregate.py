"""What a group is doing, derived from how many of its children stand in which status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from jobgroups.states import CHILD_FINAL, ChildStatus, GroupStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many children of a group stand where, as clients are told it.

    ``failed`` includes the timed out; ``final`` is what will not change any more in this run.
    """

    total: int
    completed: int
    failed: int
    cancelled: int
    final: int

    @classmethod
    def of(cls, statuses: Iterable[ChildStatus]) -> Self:
        """Count the statuses of a group's children, one entry per child."""
        return cls.from_mapping(Counter(statuses))

    @classmethod
    def from_mapping(cls, counts: Mapping[ChildStatus, int]) -> Self:
        """Sum up numbers per status; a status that is absent counts as 0."""
        return cls(
            total=sum(counts.values()),
            completed=counts.get(ChildStatus.COMPLETED, 0),
            failed=counts.get(ChildStatus.FAILED, 0) + counts.get(ChildStatus.TIMEOUT, 0),
            cancelled=counts.get(ChildStatus.CANCELLED, 0),
            final=sum(counts.get(status, 0) for status in CHILD_FINAL),
        )

    @property
    def all_final(self) -> bool:
        """Whether the run has ended: ``completed_at`` is due."""
        return self.final == self.total


def group_status(
    counts: Mapping[ChildStatus, int],
    *,
    cancelled: bool,
    claimed: bool,
    accepted_without_runner: bool,
) -> GroupStatus:
    """Return a group's status; the rows of the contract's table are tried from the top.

    Args:
        counts: Number of children per status, at least one child in all.
        cancelled: The group was cancelled in this run while something was not final.
        claimed: Some child has been claimed by a runner in this run.
        accepted_without_runner: The group was accepted while no runner was alive.

    Raises:
        ValueError: There is no child.
    """
    tally = Counts.from_mapping(counts)
    if tally.total < 1:
        raise ValueError("a group has at least one child")
    if cancelled or (tally.all_final and not tally.completed and not tally.failed):
        return GroupStatus.CANCELLED
    if tally.all_final:
        return _ended(tally)
    if accepted_without_runner and not claimed:
        return GroupStatus.PENDING
    if tally.completed and tally.failed:
        return GroupStatus.PARTIAL_COMPLETE
    return GroupStatus.RUNNING


def _ended(tally: Counts) -> GroupStatus:
    """Return the status of a group whose children are all final, not all of them cancelled."""
    if tally.completed == tally.total:
        return GroupStatus.COMPLETED
    return GroupStatus.PARTIAL_COMPLETE if tally.completed else GroupStatus.FAILED
