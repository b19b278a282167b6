from __future__ import annotations

from typing import Any, Final

import pytest
from django.db import models
from django.db.migrations import Migration, operations
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from tests.harness.migration_rules import APPS, every_migration, loader_of, objections

#: The last migration of each app in the first release. No older code runs beside those.
FIRST_RELEASE: Final = {"jobgroups": "0004_notice_taken_by", "backends": "0002_failures"}
#: Operations that were reviewed: (app, migration, its description) → why it is safe.
JUDGED: Final[dict[tuple[str, str, str], str]] = {}


def test_previous_release_works_beside_every_migration() -> None:
    released: dict[str, bool] = dict.fromkeys(APPS, True)
    found = []
    for app, name in every_migration():
        if not released[app]:
            loader = loader_of((app, name))
            before = loader.project_state((app, name), at_end=False)
            found += [
                f"{app} {name}: {why}"
                for why in objections(loader.get_migration(app, name), before)
                if (app, name, why.partition(":")[0]) not in JUDGED
            ]
        elif name == FIRST_RELEASE[app]:
            released[app] = False
    assert found == []
    assert not any(released.values()), "a migration of the first release is missing"


# --- the rule ---------------------------------------------------------------------------------------


def _state() -> ProjectState:
    state = ProjectState()
    made = operations.CreateModel(
        "Job",
        [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=20, db_default="")),
            ("note", models.TextField(null=True)),
            ("count", models.IntegerField()),
        ],
    )
    made.state_forwards("app", state)
    return state


def objections_to(*checked: Operation) -> list[str]:
    migration = Migration("0002_next", "app")
    migration.operations = list(checked)
    return objections(migration, _state())


def _nothing(*_: Any) -> None:
    pass


_CHECK = models.CheckConstraint(condition=models.Q(count__gte=0), name="count_positive")
_NEW_COUNT = operations.AddField("Job", "fresh", models.IntegerField(db_default=0))
FORBIDDEN: Final[dict[str, Operation]] = {
    "a field removed": operations.RemoveField("Job", "name"),
    "a field renamed": operations.RenameField("Job", "name", "title"),
    "a model renamed": operations.RenameModel("Job", "Task"),
    "a model removed": operations.DeleteModel("Job"),
    "a table renamed": operations.AlterModelTable("Job", "jobs"),
    "unique together": operations.AlterUniqueTogether("Job", {("name", "count")}),
    "a field without a default": operations.AddField("Job", "fresh", models.IntegerField()),
    "a field with Django's default alone": operations.AddField("Job", "fresh", models.IntegerField(default=0)),
    "a unique field": operations.AddField("Job", "fresh", models.IntegerField(db_default=0, unique=True)),
    "no longer null": operations.AlterField("Job", "note", models.TextField(default="")),
    "shorter": operations.AlterField("Job", "name", models.CharField(max_length=10, db_default="")),
    "limited": operations.AlterField("Job", "note", models.CharField(max_length=9, null=True)),
    "another type": operations.AlterField("Job", "count", models.TextField()),
    "unique": operations.AlterField("Job", "count", models.IntegerField(unique=True)),
    "another column": operations.AlterField("Job", "count", models.IntegerField(db_column="n")),
    "without its db_default": operations.AlterField("Job", "name", models.CharField(max_length=20)),
    "a constraint on an old field": operations.AddConstraint("Job", _CHECK),
    "Python without a way back": operations.RunPython(_nothing),
    "SQL without a way back": operations.RunSQL("SELECT 1"),
    "a database operation of its own": operations.SeparateDatabaseAndState(
        database_operations=[operations.RemoveField("Job", "name")]
    ),
    "an unknown operation": operations.AlterModelTableComment("Job", "a job"),
}


@pytest.mark.parametrize("operation", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_operation_that_breaks_the_previous_release_is_refused(operation: Operation) -> None:
    (reason,) = objections_to(operation)
    assert reason.endswith(".")


_OF_NEW = models.CheckConstraint(condition=models.Q(fresh__gte=0), name="fresh_positive")
_OF_BOTH = models.CheckConstraint(
    condition=models.Q(fresh__gte=0) & models.Q(fresh__lte=models.F("count")), name="below"
)
ALLOWED: Final[dict[str, list[Operation]]] = {
    "a model": [operations.CreateModel("Shelf", [("id", models.BigAutoField(primary_key=True))])],
    "a field that may be null": [operations.AddField("Job", "f", models.IntegerField(null=True))],
    "a field with a db_default": [_NEW_COUNT],
    "many to many": [operations.AddField("Job", "jobs", models.ManyToManyField("app.Job"))],
    "an index": [operations.AddIndex("Job", models.Index(fields=["count"], name="job_count"))],
    "longer": [operations.AlterField("Job", "name", models.CharField(max_length=40, db_default=""))],
    "without a limit": [operations.AlterField("Job", "name", models.TextField(db_default=""))],
    "may be null": [operations.AlterField("Job", "count", models.IntegerField(null=True))],
    "wider": [operations.AlterField("Job", "count", models.BigIntegerField())],
    "a constraint on a new field": [_NEW_COUNT, operations.AddConstraint("Job", _OF_NEW)],
    "Python and back": [operations.RunPython(_nothing, operations.RunPython.noop)],
    "SQL and back": [operations.RunSQL("SELECT 1", operations.RunSQL.noop)],
    "a field removed from Django's state alone": [
        operations.SeparateDatabaseAndState(state_operations=[operations.RemoveField("Job", "name")])
    ],
}


@pytest.mark.parametrize("checked", ALLOWED.values(), ids=ALLOWED.keys())
def test_operation_that_only_adds_is_allowed(checked: list[Operation]) -> None:
    assert objections_to(*checked) == []


def test_constraint_on_an_old_field_is_refused() -> None:
    assert len(objections_to(_NEW_COUNT, operations.AddConstraint("Job", _OF_BOTH))) == 1
