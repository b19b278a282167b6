from collections import Counter
from itertools import combinations_with_replacement, product

import pytest

from jobgroups.domain.states import CHILD_FINAL, ChildStatus, Counts, GroupStatus, group_status

QUEUED, RUNNING = ChildStatus.QUEUED, ChildStatus.RUNNING
COMPLETED, FAILED = ChildStatus.COMPLETED, ChildStatus.FAILED
TIMEOUT, CANCELLED = ChildStatus.TIMEOUT, ChildStatus.CANCELLED

#: Groups of one to four children: every row of the table is met, in every mixture.
GROUPS = [group for size in range(1, 5) for group in combinations_with_replacement(ChildStatus, size)]
MARKS = list(product([False, True], repeat=3))


def by_the_table(group: tuple[ChildStatus, ...], cancelled: bool, claimed: bool, without_runner: bool) -> GroupStatus:
    """The contract's table as a list of (condition, status), the first true one decides."""
    final = all(child in CHILD_FINAL for child in group)
    completed = [child for child in group if child == COMPLETED]
    failed = [child for child in group if child in (FAILED, TIMEOUT)]
    rows = [
        (cancelled or (final and not completed and not failed), GroupStatus.CANCELLED),
        (final and len(completed) == len(group), GroupStatus.COMPLETED),
        (final and not completed, GroupStatus.FAILED),
        (final, GroupStatus.PARTIAL_COMPLETE),
        (not claimed and without_runner, GroupStatus.PENDING),
        (bool(completed and failed), GroupStatus.PARTIAL_COMPLETE),
        (True, GroupStatus.RUNNING),
    ]
    return next(status for condition, status in rows if condition)


@pytest.mark.parametrize(("cancelled", "claimed", "without_runner"), MARKS)
def test_every_mixture_of_children_follows_the_table(cancelled: bool, claimed: bool, without_runner: bool) -> None:
    for group in GROUPS:
        found = group_status(
            Counter(group), cancelled=cancelled, claimed=claimed, accepted_without_runner=without_runner
        )
        assert found == by_the_table(group, cancelled, claimed, without_runner), group


def test_a_group_without_children_is_refused() -> None:
    for counts in ({}, {COMPLETED: 0}):
        with pytest.raises(ValueError, match="at least one child"):
            group_status(counts, cancelled=True, claimed=True, accepted_without_runner=False)


def test_counts_add_timeouts_to_failures() -> None:
    counts = Counts.from_mapping(Counter([QUEUED, RUNNING, COMPLETED, FAILED, TIMEOUT, TIMEOUT, CANCELLED]))
    assert counts == Counts(total=7, completed=1, failed=3, cancelled=1, final=5)
    assert not counts.all_final
    assert Counts.from_mapping(Counter([COMPLETED, TIMEOUT, CANCELLED])).all_final
    assert Counts.from_mapping({FAILED: 2, QUEUED: 0}).all_final
