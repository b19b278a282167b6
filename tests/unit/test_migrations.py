"""Every migration since the first release is one that the code of the release before survives."""

from __future__ import annotations

from typing import Any, Final

import pytest
from django.db import models
from django.db.migrations import Migration, operations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from tests.expanding import objections

#: The last migration of each app that is a part of the first release. Up to them nobody had older code.
FIRST_RELEASE: Final = {"jobgroups": "0004_notice_taken_by", "backends": "0002_failures"}
#: Operations that a person has judged: (app, migration, what it describes itself as) → why it is safe.
JUDGED: Final[dict[tuple[str, str, str], str]] = {}


@pytest.fixture(scope="module")
def loader() -> MigrationLoader:
    """All migrations, as the files have them."""
    return MigrationLoader(None)


def test_the_code_of_the_release_before_survives_every_migration(loader: MigrationLoader) -> None:
    found = []
    for app, first in FIRST_RELEASE.items():
        (leaf,) = loader.graph.leaf_nodes(app)
        plan = [key for key in loader.graph.forwards_plan(leaf) if key[0] == app]
        assert (app, first) in plan, f"{first} is no migration of {app}"
        for key in plan[plan.index((app, first)) + 1 :]:
            before = loader.project_state(key, at_end=False)
            found += [
                f"{app} {key[1]}: {why}"
                for why in objections(loader.get_migration(*key), before)
                if (*key, why.partition(":")[0]) not in JUDGED
            ]
    assert found == []


# --- the rule ---------------------------------------------------------------------------------------


def _state() -> ProjectState:
    """A model of the release before."""
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


def told(*looked_at: Operation) -> list[str]:
    migration = Migration("0002_next", "app")
    migration.operations = list(looked_at)
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
    "a field with Django's default alone": operations.AddField(
        "Job", "fresh", models.IntegerField(default=0)
    ),
    "a unique field": operations.AddField(
        "Job", "fresh", models.IntegerField(db_default=0, unique=True)
    ),
    "no longer null": operations.AlterField("Job", "note", models.TextField(default="")),
    "shorter": operations.AlterField("Job", "name", models.CharField(max_length=10, db_default="")),
    "limited": operations.AlterField("Job", "note", models.CharField(max_length=9, null=True)),
    "another type": operations.AlterField("Job", "count", models.TextField()),
    "unique": operations.AlterField("Job", "count", models.IntegerField(unique=True)),
    "another column": operations.AlterField("Job", "count", models.IntegerField(db_column="n")),
    "without its db_default": operations.AlterField("Job", "name", models.CharField(max_length=20)),
    "a constraint on what is written": operations.AddConstraint("Job", _CHECK),
    "Python without a way back": operations.RunPython(_nothing),
    "SQL without a way back": operations.RunSQL("SELECT 1"),
    "within another": operations.SeparateDatabaseAndState(
        database_operations=[operations.RemoveField("Job", "name")]
    ),
    "what nobody has thought of": operations.AlterModelTableComment("Job", "a job"),
}


@pytest.mark.parametrize("operation", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_the_old_code_would_not_survive_is_objected_to(operation: Operation) -> None:
    (why,) = told(operation)
    assert why.endswith(".")


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
    "longer": [
        operations.AlterField("Job", "name", models.CharField(max_length=40, db_default=""))
    ],
    "without a limit": [operations.AlterField("Job", "name", models.TextField(db_default=""))],
    "may be null": [operations.AlterField("Job", "count", models.IntegerField(null=True))],
    "wider": [operations.AlterField("Job", "count", models.BigIntegerField())],
    "a constraint on what is new": [_NEW_COUNT, operations.AddConstraint("Job", _OF_NEW)],
    "Python and back": [operations.RunPython(_nothing, operations.RunPython.noop)],
    "SQL and back": [operations.RunSQL("SELECT 1", operations.RunSQL.noop)],
    "forgotten by Django alone": [
        operations.SeparateDatabaseAndState(
            state_operations=[operations.RemoveField("Job", "name")]
        )
    ],
}


@pytest.mark.parametrize("looked_at", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_only_adds_is_not_objected_to(looked_at: list[Operation]) -> None:
    assert told(*looked_at) == []


def test_a_constraint_that_names_an_old_field_too_is_objected_to() -> None:
    assert len(told(_NEW_COUNT, operations.AddConstraint("Job", _OF_BOTH))) == 1
