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


_COUNT = models.CheckConstraint(condition=models.Q(count__gte=0), name="count_positive")
_FRESH = models.CheckConstraint(condition=models.Q(fresh__gte=0), name="fresh_positive")
_BELOW = models.CheckConstraint(condition=models.Q(fresh__lte=models.F("count")), name="below")
_NEW = operations.AddField("Job", "fresh", models.IntegerField(db_default=0))
_GONE = operations.RemoveField("Job", "name")


def _new(**options: Any) -> Operation:
    return operations.AddField("Job", "fresh", models.IntegerField(**options))


def _altered(name: str, field: models.Field[Any, Any]) -> Operation:
    return operations.AlterField("Job", name, field)


FORBIDDEN: Final[dict[str, list[Operation]]] = {
    "a field removed": [_GONE],
    "a field renamed": [operations.RenameField("Job", "name", "title")],
    "a model renamed": [operations.RenameModel("Job", "Task")],
    "a model removed": [operations.DeleteModel("Job")],
    "a field without a default": [_new()],
    "a field with Django's default alone": [_new(default=0)],
    "a unique field": [_new(db_default=0, unique=True)],
    "no longer null": [_altered("note", models.TextField(default=""))],
    "shorter": [_altered("name", models.CharField(max_length=10, db_default=""))],
    "limited": [_altered("note", models.CharField(max_length=9, null=True))],
    "another type": [_altered("count", models.TextField())],
    "another column": [_altered("count", models.IntegerField(db_column="n"))],
    "without its db_default": [_altered("name", models.CharField(max_length=20))],
    "a constraint on an old field": [operations.AddConstraint("Job", _COUNT)],
    "a constraint on an old field and a new one": [_NEW, operations.AddConstraint("Job", _BELOW)],
    "SQL without a way back": [operations.RunSQL("SELECT 1")],
    "within": [operations.SeparateDatabaseAndState(database_operations=[_GONE])],
    "an unknown operation": [operations.AlterModelTableComment("Job", "a job")],
}
ALLOWED: Final[dict[str, list[Operation]]] = {
    "a model": [operations.CreateModel("Shelf", [("id", models.BigAutoField(primary_key=True))])],
    "a field that may be null": [_new(null=True)],
    "a field with a db_default": [_NEW],
    "an index": [operations.AddIndex("Job", models.Index(fields=["count"], name="job_count"))],
    "without a limit": [_altered("name", models.TextField(db_default=""))],
    "may be null": [_altered("count", models.IntegerField(null=True))],
    "wider": [_altered("count", models.BigIntegerField())],
    "a constraint on a new field": [_NEW, operations.AddConstraint("Job", _FRESH)],
    "SQL and back": [operations.RunSQL("SELECT 1", operations.RunSQL.noop)],
    "Django's state alone": [operations.SeparateDatabaseAndState(state_operations=[_GONE])],
}


@pytest.mark.parametrize("checked", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_operation_that_breaks_the_previous_release_is_refused(checked: list[Operation]) -> None:
    (reason,) = objections_to(*checked)
    assert reason.endswith(".")


@pytest.mark.parametrize("checked", ALLOWED.values(), ids=ALLOWED.keys())
def test_operation_that_only_adds_is_allowed(checked: list[Operation]) -> None:
    assert objections_to(*checked) == []
