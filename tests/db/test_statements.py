"""Prepared statements: rows and values of the query sets that they are made of."""

import datetime as dt
import threading
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Model, Q
from django.db.models.sql.compiler import SQLCompiler
from django.test.utils import CaptureQueriesContext

from backends.models import Backend
from jobgroups.database import keys
from jobgroups.database.statements import (
    KEY,
    Parameter,
    PreparedQuery,
    PreparedValues,
    insert,
    update_where,
)
from jobgroups.domain.clock import now
from jobgroups.domain.states import GroupStatus
from jobgroups.models import Attempt, ChildJob, GroupLabel, JobGroup
from jobgroups.queries import groups
from jobgroups.services import cancellation
from tests.harness import factories

pytestmark = pytest.mark.django_db

CHILDREN: PreparedQuery[Any] = PreparedQuery(
    lambda: (
        ChildJob.objects.filter(group_id=KEY)
        .order_by("position")
        .select_related("current_attempt")
        .annotate(group_seq=F("group__seq"))
    )
)


def _values(row: Model) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def _group() -> JobGroup:
    """A group of three: one is completed, one runs, one waits."""
    factories.backend()
    fence = factories.lease()
    group = factories.submit(
        *["gpu-1"] * 3, required_capabilities=["24gb"], metadata={"scene": "é"}
    )
    factories.finish(factories.claim(fence), fence)
    factories.start(factories.claim(fence), fence)
    return group


def test_prepared_query_returns_the_rows_of_its_query_set() -> None:
    group = _group()
    plain = ChildJob.objects.filter(group=group).order_by("position")
    with CaptureQueriesContext(connection) as queries:
        found = CHILDREN(group.id)
        loaded = [one.current_attempt for one in found]
    assert len(queries) == 1
    assert {one.group_seq for one in found} == {factories.fresh(group).seq}
    assert [_values(one) for one in found] == [_values(one) for one in plain]
    attempts = [Attempt.objects.filter(pk=one.current_attempt_id).first() for one in plain]
    assert [one and _values(one) for one in loaded] == [one and _values(one) for one in attempts]
    assert CHILDREN("jg_000000000000") == []


def test_deferred_field_is_read_on_access() -> None:
    group = _group()
    one: PreparedQuery[JobGroup] = PreparedQuery(
        lambda: JobGroup.objects.filter(pk=KEY).defer("workflow_json")
    )
    found = one.get(group.id)
    assert found.get_deferred_fields() == {"workflow_json"}
    assert _values(found) == _values(factories.fresh(group))
    with pytest.raises(JobGroup.DoesNotExist):
        one.get("jg_000000000000")


def test_prepared_query_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    group = _group()
    CHILDREN(group.id)
    monkeypatch.setattr(SQLCompiler, "as_sql", lambda *_, **__: pytest.fail("compiled again"))
    assert len(CHILDREN(group.id)) == 3


WAITING: PreparedQuery[ChildJob] = PreparedQuery(
    lambda: ChildJob.objects.filter(
        ~Q(backend_id=Parameter("other")),
        Q(not_before__isnull=True) | Q(not_before__lte=Parameter("moment")),
        group_id=KEY,
        status="queued",
    ).order_by("position")
)


def test_prepared_query_takes_named_parameters() -> None:
    group = _group()
    moment = now()
    hour = dt.timedelta(hours=1)
    ChildJob.objects.filter(group=group, status="queued").update(not_before=moment + hour)
    asked = {"other": "gpu-2", "moment": moment}
    assert WAITING(group.id, **asked) == []
    [found] = WAITING(group.id, **asked | {"moment": moment + hour})
    assert (found.position, found.not_before) == (2, moment + hour)
    assert WAITING.first(group.id, **asked | {"moment": moment + hour}) == found
    assert WAITING.first(group.id, other="gpu-1", moment=moment + hour) is None
    with pytest.raises(KeyError):
        WAITING(group.id, other="gpu-2")


def test_rows_of_many_keys_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_AT_ONCE", 2)
    names = [factories.backend(f"gpu-{number}").pk for number in range(5)]
    sizes: list[int] = []

    def prepared(size: int) -> PreparedValues:
        sizes.append(size)
        rows = Backend.objects.filter(pk__in=keys.places(size)).values_list("pk")
        return PreparedValues(lambda: rows)

    assert keys.read(prepared, [*names, "gone"]) == [(name,) for name in names]
    assert sizes == [2, 2, 2]
    assert keys.read(prepared, names[:1] * 2) == [("gpu-0",)]
    assert keys.read(prepared, []) == []
    assert sizes == [2, 2, 2, 1]


@pytest.mark.django_db(transaction=True)
def test_prepared_query_works_in_every_thread() -> None:
    group = _group()
    found: list[int] = []

    def ask() -> None:
        found.append(len(CHILDREN(group.id)))
        connection.close()
        found.append(len(CHILDREN(group.id)))  # over a new connection
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 6


def test_snapshot_is_read_again_when_the_log_changed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = _group()
    read = groups.CHILDREN.raw
    times: list[int] = []

    def moving(group_id: str) -> Any:
        times.append(1)
        if len(times) == 1:
            cancellation.group_cancel(group_id=group_id)
        return read(group_id)

    monkeypatch.setattr(groups.CHILDREN, "raw", moving)
    snapshot = groups.group_snapshot(group.id)
    assert len(times) == 2
    assert snapshot["seq"] == factories.fresh(group).seq
    assert snapshot["cancelled_count"] == 2
    assert [one["status"] for one in snapshot["child_jobs"]].count("cancelled") == 2


@pytest.mark.parametrize("retry_on", [None, ["timeout"]])
def test_insert_stores_the_values_of_the_instances(retry_on: list[str] | None) -> None:
    group = _group()
    JobGroup.objects.update(retry_on=retry_on)
    for model, changes in (
        (JobGroup, {"id": "jg_00000000000"}),
        (ChildJob, {"id": "j_00000000000", "position": 1}),
    ):
        made = []
        for number, row in enumerate(model._default_manager.all()):
            values = {name: type(by)(f"{by}{number}") for name, by in changes.items()}
            made.append(model(**_values(row) | values))
        insert(made)
        assert not any(one._state.adding for one in made)
        assert [_values(factories.fresh(one)) for one in made] == [_values(one) for one in made]
    labels = [GroupLabel(group=group, key=f"k{number}", value="v") for number in range(3)]
    insert(labels)  # the database gives their ids
    assert GroupLabel.objects.filter(group=group, key__startswith="k").count() == 3
    insert([])


def test_insert_stores_no_row_when_one_violates_a_constraint() -> None:
    group = _group()
    labels = [GroupLabel(group=group, key=key, value="v") for key in ("a", "b", "a")]
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(labels)
    assert not GroupLabel.objects.filter(group=group, key__in=["a", "b"]).exists()


def test_update_where_stores_what_a_query_set_would() -> None:
    group = _group()
    moment = now()
    fields = {
        "status": GroupStatus.RUNNING,
        "cancelled_at": moment,
        "retry_on": ["timeout"],
        "has_claimed_child": True,
        "submitter": "é",
        "completed_at": None,
    }
    assert update_where(JobGroup, group.pk, fields)
    stored = factories.fresh(group)
    JobGroup.objects.filter(pk=group.pk).update(**fields)
    assert _values(stored) == _values(factories.fresh(group))
    assert stored.cancelled_at == moment


def test_update_where_changes_one_row_under_its_conditions() -> None:
    group = _group()
    done, runs, waits = ChildJob.objects.filter(group=group).order_by("position")
    attempt = [runs.current_attempt_id]

    def update(key: str, **conditions: Any) -> bool:
        return update_where(ChildJob, key, {"warnings_json": "x"}, **conditions)

    assert not update(waits.pk, status=["running", "failed"])
    assert not update(runs.pk, status=[])
    assert not update(done.pk, status=["completed"], current_attempt_id=attempt)
    assert not update("j_000000000000")
    assert update(runs.pk, status=["running"], current_attempt_id=attempt)
    assert [factories.fresh(one).warnings_json for one in (done, runs, waits)] == ["[]", "x", "[]"]
    assert update_where(ChildJob, waits.pk, {"current_attempt": None})
