"""The order of all migrations, and what a migration may do. See "Upgrades" in docs/operations.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import operations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.models import Field, ManyToManyField

#: The accounts, which came last, come last in the order of all migrations.
APPS: Final = ("accounts", "backends", "jobgroups")
Key = tuple[str, str]


def every_migration() -> list[Key]:
    """Return the migrations of the apps in an order in which they can run, without squashed ones."""
    loader = MigrationLoader(None)
    squashed = set(loader.replacements)
    originals = MigrationLoader(None, replace_migrations=False).graph
    found: dict[Key, None] = {}
    for key in loader.replacements:
        for replaced in loader.replacements[key].replaces:
            found |= dict.fromkeys(originals.forwards_plan(replaced))
    for app in reversed(APPS):
        for leaf in loader.graph.leaf_nodes(app):
            found |= dict.fromkeys(loader.graph.forwards_plan(leaf))
    return [key for key in found if key[0] in APPS and key not in squashed]


def loader_of(key: Key, connection: BaseDatabaseWrapper | None = None) -> MigrationLoader:
    """Return a loader in whose graph a migration is a node, be it replaced by a squashed one or
    not.
    """
    loader = MigrationLoader(connection)
    if any(key in migration.replaces for migration in loader.replacements.values()):
        return MigrationLoader(connection, replace_migrations=False)
    return loader


#: Operations that change no column of the previous release.
_HARMLESS: Final = (
    operations.CreateModel,
    operations.AddIndex,
    operations.RemoveIndex,
    operations.RenameIndex,
    operations.RemoveConstraint,
    operations.AlterModelOptions,
    operations.AlterModelManagers,
)


def objections(checked: Sequence[Operation]) -> Iterator[str]:
    """Yield why operations may break the code of the previous release, one sentence for each of
    them.
    """
    for operation in checked:
        if isinstance(operation, operations.SeparateDatabaseAndState):
            # State operations leave the database as the previous release needs it.
            yield from objections(operation.database_operations)
        elif reason := _objection(operation):
            yield f"{operation.describe()}: {reason}"


def _objection(operation: Operation) -> str | None:
    match operation:
        case operations.AddField():
            return _of_new_field(operation.field)
        case operations.RunPython() | operations.RunSQL():
            return None if operation.reversible else "there is no way back."
        case operations.AlterField() | operations.AddConstraint():
            return "review it, and list it in REVIEWED of tests/unit/test_migrations.py."
    if isinstance(operation, _HARMLESS):
        return None
    return "the previous release uses this name; leave it to a later release."


def _of_new_field(field: Field[Any, Any]) -> str | None:
    if isinstance(field, ManyToManyField) or field.null:
        return None
    if not field.has_db_default():
        return "the previous release inserts no value: give it null=True or a db_default."
    return "two rows of the previous release would have the same value." if field.unique else None
