"""The lists of groups of a backend, and with metadata."""

from collections.abc import Sequence
from copy import copy
from typing import Final

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from jobgroups.domain.access import EVERYBODY
from jobgroups.models import ChildJob, GroupLabel, JobGroup
from jobgroups.queries.groups import GroupFilter, listed_page
from jobgroups.services import group_times
from jobgroups.services.group_times import group_times_fill
from tests.harness import factories as make

pytestmark = pytest.mark.django_db

FILTERS: Final = {
    "backend": GroupFilter(principal=EVERYBODY, backend="gpu-1"),
    "metadata": GroupFilter(principal=EVERYBODY, metadata={"scene": "shot_1"}),
    "both": GroupFilter(
        principal=EVERYBODY, backend="gpu-1", metadata={"scene": "shot_1", "take": "2"}
    ),
}
each_filter = pytest.mark.parametrize("name", FILTERS)


def _groups() -> list[str]:
    """Submit groups, of which each second one has the backend and the metadata; return the ids of
    these, newest first.
    """
    made = []
    for number in range(14):
        matches = number % 2 == 0
        names = ["gpu-1"] * 3 if matches else ["gpu-2"]
        made.append(
            make.submit(
                *names, metadata={"scene": f"shot_{int(matches)}", "take": 2 if matches else 1}
            ).pk
        )
    return made[::2][::-1]


def _pages(filters: GroupFilter, limit: int) -> list[list[str]]:
    """Read all pages forwards and, back from the last one, all again; they must be the same."""
    found: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = listed_page(filters, lambda row: row.pk, cursor=cursor, limit=limit)
        found.append(page.results)
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    back = [found[-1]]
    while page.previous_cursor is not None:
        page = listed_page(filters, lambda row: row.pk, cursor=page.previous_cursor, limit=limit)
        if page.results:
            back.append(page.results)
    assert back[::-1] == found
    return found


def _unfill(keys: Sequence[str]) -> None:
    """Have rows as the previous release writes them."""
    ChildJob.objects.filter(group__in=keys).update(group_created_at=None)
    GroupLabel.objects.filter(group__in=keys).update(group_created_at=None)


@each_filter
def test_pages_of_groups_are_the_same_before_and_after_rows_of_the_previous_release_are_filled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.farm(2)
    expected = _groups()
    pages = [expected[:3], expected[3:6], expected[6:]]
    assert _pages(FILTERS[name], 3) == pages
    _unfill(expected[::2])
    assert _pages(FILTERS[name], 3) == pages
    monkeypatch.setattr(group_times, "_AT_ONCE", 5)
    counts = iter(group_times_fill, 0)
    assert sum(counts) == 4 * (3 + 2)
    assert _pages(FILTERS[name], 3) == pages
    times = ChildJob.objects.values_list("group_created_at", "group__created_at")
    assert all(filled == created for filled, created in times)


def _many_others() -> None:
    """Store rows that no filter finds: PostgreSQL chooses by the rows that it last counted, and by
    those of each value.
    """
    child, label = ChildJob.objects.all()[0], GroupLabel.objects.first()
    groups, children, labels = [], [], []
    for number in range(2000):
        group, other = copy(child.group), copy(child)
        group.pk, group.submitter = f"g{number}", "bob"
        other.pk, other.group, other.backend_id = f"c{number}", group, "gpu-3"
        groups.append(group)
        children.append(other)
        if label is not None:
            labels.append(
                GroupLabel(
                    group=group, key=label.key, value="other", group_created_at=group.created_at
                )
            )
    JobGroup.objects.bulk_create(groups)
    ChildJob.objects.bulk_create(children)
    GroupLabel.objects.bulk_create(labels)
    with connection.cursor() as cursor:
        for model in (JobGroup, ChildJob, GroupLabel):
            cursor.execute(f"ANALYZE {model._meta.db_table}")


def _plans(filters: GroupFilter) -> list[str]:
    """Return the plan of each query of a page, of a database with many rows."""
    if connection.vendor == "postgresql":
        _many_others()
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL "
                "enable_hashagg = off"
            )
        with CaptureQueriesContext(connection) as queries:
            listed_page(filters, lambda row: row.pk, cursor=None, limit=3)
        explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
        plans = []
        for query in queries.captured_queries:
            cursor.execute(explain + query["sql"].replace("%", "%%"))
            plans.append("\n".join(str(row[-1]) for row in cursor.fetchall()))
        return plans


@pytest.mark.parametrize(
    ("filters", "index"),
    [(FILTERS["backend"], "child_backend_newest"), (FILTERS["metadata"], "label_newest")],
    ids=["backend", "metadata"],
)
def test_groups_are_read_in_order_as_far_as_the_page_needs(
    filters: GroupFilter, index: str
) -> None:
    make.farm(2)
    _groups()
    unfilled, few, keys, page = _plans(filters)
    assert index in keys
    assert not any(
        word in plan
        for plan in (few, unfilled, keys)
        for word in ("SCAN jobgroups", "TEMP B-TREE", "Sort", "Seq Scan")
    )
    assert "SCAN" not in page


def test_groups_of_a_submitter_are_read_in_order() -> None:
    make.farm(1)
    make.submit("gpu-1", submitter="ann")
    (plan,) = _plans(GroupFilter(principal=EVERYBODY, submitter="ann"))
    assert "group_submitter_newest" in plan
    assert not any(word in plan for word in ("TEMP B-TREE", "Sort", "Seq Scan"))
