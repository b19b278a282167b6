from __future__ import annotations

import datetime as dt
import io
import itertools
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import StateApps
from django.db.models import Field, ForeignKey, Model
from django.db.models.signals import pre_migrate

from director.accounts.models import Token
from director.management.commands import migrate
from director.server.startup import unknown_migrations
from jobgroups.domain.access import Scope
from jobgroups.models import JobGroup
from tests.harness.migration_rules import APPS, every_migration, loader_of

_MOMENT: Final = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
#: Values that constraints require.
_REQUIRED: Final[dict[str, dict[str, Any]]] = {
    "jobgroup": {"status": "completed", "total_count": 9},
    "childjob": {"status": "completed", "current_attempt_id": None},
    "attempt": {"state": "success"},
    "capture": {"due_at": None},
    "token": {"parent_id": None},
}
ALIAS: Final = "scratch"


class Scratch:
    """Databases of the engine under test. One of them is open at a time, as ``ALIAS``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefix = f"test_migrations_{uuid.uuid4().hex[:8]}"
        self._is_sqlite = connection.vendor == "sqlite"
        self._names: list[str] = []

    def open(self, name: str, *, template: str | None = None) -> BaseDatabaseWrapper:
        """Open a database, which is created if it does not exist: empty, or as a copy of another."""
        self.close()
        path = self._path(name)
        if name not in self._names:
            self._names.append(name)
            if not self._is_sqlite:
                source = self._path(template) if template else "template1"
                self._execute(f'CREATE DATABASE "{path}" TEMPLATE "{source}"')
            elif template:
                shutil.copy(self._path(template), path)
        default = connections.settings["default"]
        # A pool would keep connections open.
        options = {name: v for name, v in default["OPTIONS"].items() if name != "pool"}
        connections.settings[ALIAS] = {**default, "NAME": path, "OPTIONS": options}
        return connections[ALIAS]

    def has(self, name: str) -> bool:
        return name in self._names

    def close(self) -> None:
        """Close the open database: PostgreSQL copies none that is in use."""
        if ALIAS in connections.settings:
            connections[ALIAS].close()
            del connections[ALIAS], connections.settings[ALIAS]

    def drop(self) -> None:
        self.close()
        for name in () if self._is_sqlite else self._names:
            self._execute(f'DROP DATABASE "{self._path(name)}"')

    def _path(self, name: str) -> str:
        return str(self._folder / name) if self._is_sqlite else f"{self._prefix}_{name}"

    @staticmethod
    def _execute(sql: str) -> None:
        with connection._nodb_cursor() as cursor:
            cursor.execute(sql)


@pytest.fixture(scope="module")
def scratch(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Scratch]:
    with django_db_blocker.unblock():
        made = Scratch(tmp_path_factory.mktemp("migrations"))
        try:
            yield made
        finally:
            made.drop()


STATES: Final = every_migration()


def _open_state(scratch: Scratch, number: int) -> BaseDatabaseWrapper:
    """Open a database after so many migrations, with rows."""
    if scratch.has(f"rows_{number}"):
        return scratch.open(f"rows_{number}")
    before = max((one for one in range(number) if scratch.has(f"empty_{one}")), default=-1)
    database = scratch.open(f"empty_{number}", template=f"empty_{before}" if before >= 0 else None)
    for app in ("admin", "sessions") if before < 0 else ():
        call_command("migrate", app, database=ALIAS, verbosity=0)
    squashed = MigrationLoader(None).replacements.values()
    replaced = {key for migration in squashed for key in migration.replaces}
    for _, states in itertools.groupby(STATES[before + 1 : number + 1], replaced.__contains__):
        targets = [*states]
        executor = MigrationExecutor(database)
        executor.loader = loader_of(targets[0], database)
        # Of the originals some depend on a squashed one, which Django would run too.
        plan = [step for step in executor.migration_plan(targets) if not step[0].replaces]
        executor.migrate(targets, plan)
    originals = MigrationLoader(database, replace_migrations=False)
    applied = [node for node in originals.graph.nodes if node in STATES[: number + 1]]
    apps_of_state = originals.project_state(applied).apps
    database = scratch.open(f"rows_{number}", template=f"empty_{number}")
    _insert_rows(apps_of_state)
    return database


def _value(field: Field[Any, Any], rows: dict[str, Model]) -> Any:
    """Return a value that is not the field's default."""
    if isinstance(field, ForeignKey):
        return rows[field.related_model._meta.model_name].pk
    if field.choices:
        return [value for value, _ in field.choices if value][-1]
    values = {
        "BooleanField": not field.default,
        "CharField": f"{field.name} of a row"[: field.max_length],
        "DateTimeField": _MOMENT,
        "JSONField": ["x"],
        "TextField": '["x"]',
    }
    return values.get(field.get_internal_type(), 1)


def _insert_rows(state: StateApps) -> None:
    """Insert a row into each table of the apps, those that others refer to first."""
    rows: dict[str, Model] = {}
    waiting = list(state.get_models())
    while waiting:
        model = waiting.pop(0)
        name = str(model._meta.model_name)
        values = dict(_REQUIRED.get(name, {}))
        fields = [
            one for one in model._meta.local_concrete_fields if one is not model._meta.auto_field
        ]
        try:
            values = {
                one.attname: _value(one, rows) for one in fields if one.attname not in values
            } | values
        except KeyError:
            waiting.append(model)
            continue
        rows[name] = model._default_manager.using(ALIAS).create(**values)
    if "attempt" in rows:
        rows["childjob"].current_attempt_id = rows["attempt"].pk  # type: ignore[attr-defined]
        rows["childjob"].save(using=ALIAS)


def _tables(database: BaseDatabaseWrapper) -> list[str]:
    with database.cursor() as cursor:
        return [
            table for table in database.introspection.table_names(cursor) if table.startswith(APPS)
        ]


def _rows(database: BaseDatabaseWrapper, tables: Iterable[str]) -> dict[str, dict[str, Any]]:
    found = {}
    with database.cursor() as cursor:
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608 names of the schema
            (row,) = cursor.fetchall()
            found[table] = dict(zip((one[0] for one in cursor.description), row, strict=True))
    return found


def _schema(database: BaseDatabaseWrapper) -> dict[str, Any]:
    """Return columns, constraints and indexes of the apps' tables."""
    inspect = database.introspection
    with database.cursor() as cursor:
        return {
            table: (
                sorted(
                    (one.name, one.type_code, one.display_size, one.null_ok, one.default)
                    for one in inspect.get_table_description(cursor, table)
                ),
                sorted(
                    # Django derives the names of unnamed constraints from a digest of their
                    # columns.
                    ("" if one["foreign_key"] or one["primary_key"] else name, repr(one))
                    for name, one in inspect.get_constraints(cursor, table).items()
                ),
            )
            for table in _tables(database)
        }


#: Conditions of indexes, and triggers: Django's introspection has neither.
_DEFINITIONS: Final = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type IN ('index', 'trigger')",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' UNION"
    " SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
}


def _definitions(database: BaseDatabaseWrapper) -> dict[str, str]:
    with database.cursor() as cursor:
        cursor.execute(_DEFINITIONS[database.vendor])
        found = {name: sql for name, sql in cursor.fetchall() if sql}
    return {name: sql for name, sql in found.items() if any(f"{app}_" in sql for app in APPS)}


def _number_of(name: str) -> int:
    return next(number for number, (_, one) in enumerate(STATES) if one == name)


#: The first state, an early one, the last one without accounts, and the last two; the others are
#: slow.
SAMPLE: Final = {
    0,
    _number_of("0012_notice_state"),
    _number_of("0001_accounts") - 1,
    len(STATES) - 2,
    len(STATES) - 1,
}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=name, marks=() if number in SAMPLE else pytest.mark.slow)
        for number, (_, name) in enumerate(STATES)
    ],
)
def test_database_of_an_earlier_release_keeps_its_rows(scratch: Scratch, number: int) -> None:
    database = _open_state(scratch, number)
    before = _rows(database, _tables(database))
    call_command("migrate", database=ALIAS, verbosity=0)
    for table, row in _rows(database, before).items():
        assert {name: row[name] for name in before[table]} == before[table]
    for app in APPS:
        for model in apps.get_app_config(app).get_models():
            for row in model._default_manager.using(ALIAS):
                row.save(using=ALIAS, force_update=True)


def test_database_from_before_accounts_gets_them_and_its_groups_no_owner(scratch: Scratch) -> None:
    state = STATES[: _number_of("0038_child_changed") + 1]
    database = _open_state(scratch, len(state) - 1)
    graph = MigrationLoader(database)
    applied = [node for node in graph.graph.nodes if node in graph.applied_migrations]
    earlier = graph.project_state(applied).apps.get_model("jobgroups", "JobGroup")
    call_command("migrate", database=ALIAS, verbosity=0)
    # The release before still inserts beside this one.
    beside = earlier._default_manager.using(ALIAS).get()
    beside.pk, beside.submitter, beside.idempotency_key = "jg_beside", "anna", None
    beside.save(using=ALIAS, force_insert=True)
    groups = JobGroup.objects.using(ALIAS)
    assert {group.pk: group.owner_id for group in groups} == dict.fromkeys(
        (group.pk for group in groups), None
    )
    assert len(groups) == 2
    anna = User.objects.using(ALIAS).create(username="anna")
    for scope in (*Scope, "all"):
        token = Token(id=f"t_{scope}", digest=f"{scope}", scope=scope, owner=anna)
        token.name, token.created_at = "test", _MOMENT
        if scope in list(Scope):
            token.save(using=ALIAS)
        else:
            with pytest.raises(IntegrityError):
                token.save(using=ALIAS)


def test_fresh_database_has_the_same_schema_by_squashed_migrations(scratch: Scratch) -> None:
    newest = _open_state(scratch, len(STATES) - 1)
    schema, definitions = _schema(newest), _definitions(newest)
    database = scratch.open("fresh")
    executor = MigrationExecutor(database)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    names = [migration.name for migration, _ in plan if migration.app_label in APPS]
    assert sum("squashed" in name for name in names) == len(APPS) - 1  # the accounts have two
    assert "0001_initial" not in names
    call_command("migrate", database=ALIAS, verbosity=0)
    assert _schema(database) == schema
    assert _definitions(database) == definitions


@pytest.mark.django_db
def test_newer_version_is_named_by_its_migrations_but_not_by_squashed_ones() -> None:
    applied = MigrationRecorder(connection)
    # An earlier release had this one, which the present squashed migration replaces.
    applied.record_applied("jobgroups", "0001_squashed_0012_notice_state")
    assert unknown_migrations() == []
    applied.record_applied("jobgroups", "9999_later")
    assert unknown_migrations() == ["jobgroups 9999_later"]


def test_long_migration_prints_how_long_it_has_been_running(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PROGRESS_SECONDS", 0.001)
    scratch.open("progress")
    printed = io.StringIO()
    call_command("migrate", "jobgroups", database=ALIAS, verbosity=0, stdout=printed)
    found = re.findall(
        r"Migrating the database: (\S+) has been running for \d+ s\.\n", printed.getvalue()
    )
    assert "jobgroups.0001_squashed_0047_attempt_succeeded" in found


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no such limit")
def test_migration_waits_for_locks_without_a_limit_and_other_work_does_not(
    scratch: Scratch,
) -> None:
    scratch.open("locks")
    limits = []

    def note(**_: Any) -> None:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            limits.append(cursor.fetchone()[0])

    pre_migrate.connect(note)
    try:
        call_command("migrate", "backends", database=ALIAS, verbosity=0)
    finally:
        pre_migrate.disconnect(note)
    note()
    assert limits[0] == "0"
    assert limits[-1] == "5s"
