from __future__ import annotations

from typing import Any, Final

import pytest
from django.db import models
from django.db.migrations import operations
from django.db.migrations.operations.base import Operation

from tests.harness.migration_rules import APPS, every_migration, loader_of, objections

#: The last migration of each app in the first release. No older code runs beside those.
FIRST_RELEASE: Final = {
    "jobgroups": "0004_notice_taken_by",
    "backends": "0002_failures",
    "accounts": "0001_accounts",
}
#: Operations that were reviewed, and why the previous release works beside them.
REVIEWED: Final = {
    "accounts 0002_delegate Alter field scope on token": "another choice",
    "accounts 0002_delegate Create constraint token_scope_known on model token": "another choice",
    "jobgroups 0007_stop_reason_moved Alter field stop_reason on attempt": "another choice",
    "jobgroups 0009_partial_outputs Alter field stop_reason on attempt": "another choice",
    "jobgroups 0009_partial_outputs Create constraint group_partial_outputs_known on model jobgroup": "a new column",
    "jobgroups 0013_pool Create constraint group_placement_known on model jobgroup": "a new column",
    "jobgroups 0013_pool Create constraint child_bound_or_in_pool on model childjob": "new columns",
    "jobgroups 0013_pool Create constraint variant_number on model variant": "a new table",
    "jobgroups 0015_timing Alter field stop_reason on attempt": "another choice",
    "jobgroups 0030_variant_bypassed_index Remove index variant_bypassed from variant": "its query finds the rows without",
}


def test_previous_release_works_beside_every_migration() -> None:
    released: dict[str, bool] = dict.fromkeys(APPS, True)
    found = []
    for app, name in every_migration():
        if not released[app]:
            migration = loader_of((app, name)).get_migration(app, name)
            whys = [f"{app} {name} {why}" for why in objections(migration.operations)]
            found += [why for why in whys if why.partition(":")[0] not in REVIEWED]
        elif name == FIRST_RELEASE[app]:
            released[app] = False
    assert found == []
    assert not any(released.values()), "a migration of the first release is missing"


_NEW = operations.AddField("Job", "fresh", models.IntegerField(db_default=0))
_GONE = operations.RemoveField("Job", "name")


def _new(**options: Any) -> Operation:
    return operations.AddField("Job", "fresh", models.IntegerField(**options))


FORBIDDEN: Final[dict[str, list[Operation]]] = {
    "a field removed": [_GONE],
    "a field renamed": [operations.RenameField("Job", "name", "title")],
    "a model renamed": [operations.RenameModel("Job", "Task")],
    "a model removed": [operations.DeleteModel("Job")],
    "a field without a default": [_new()],
    "a field with Django's default alone": [_new(default=0)],
    "a unique field": [_new(db_default=0, unique=True)],
    "a changed field": [operations.AlterField("Job", "note", models.TextField(default=""))],
    "a constraint": [
        operations.AddConstraint(
            "Job", models.CheckConstraint(condition=models.Q(count__gte=0), name="positive")
        )
    ],
    "SQL without a way back": [operations.RunSQL("SELECT 1")],
    "within": [operations.SeparateDatabaseAndState(database_operations=[_GONE])],
    "an unknown operation": [operations.AlterModelTableComment("Job", "a job")],
}
ALLOWED: Final[dict[str, list[Operation]]] = {
    "a model": [operations.CreateModel("Shelf", [("id", models.BigAutoField(primary_key=True))])],
    "a field that may be null": [_new(null=True)],
    "a field with a db_default": [_NEW],
    "an index": [operations.AddIndex("Job", models.Index(fields=["count"], name="job_count"))],
    "SQL and back": [operations.RunSQL("SELECT 1", operations.RunSQL.noop)],
    "Django's state alone": [operations.SeparateDatabaseAndState(state_operations=[_GONE])],
}


@pytest.mark.parametrize("checked", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_operation_that_breaks_the_previous_release_is_refused(checked: list[Operation]) -> None:
    (reason,) = objections(checked)
    assert reason.endswith(".")


@pytest.mark.parametrize("checked", ALLOWED.values(), ids=ALLOWED.keys())
def test_operation_that_only_adds_is_allowed(checked: list[Operation]) -> None:
    assert list(objections(checked)) == []
