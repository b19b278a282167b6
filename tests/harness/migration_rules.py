"""The order of all migrations, and what a migration may do. See "Upgrades" in docs/operations.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration, operations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import CheckConstraint, Field, ManyToManyField, Q, UniqueConstraint

APPS: Final = ("backends", "jobgroups")
Key = tuple[str, str]


def every_migration() -> list[Key]:
    """Return the migrations of both apps in an order in which they can run, without squashed ones."""
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
    """Return a loader in whose graph a migration is a node, be it replaced by a squashed one or not."""
    loader = MigrationLoader(connection)
    if any(key in migration.replaces for migration in loader.replacements.values()):
        return MigrationLoader(connection, replace_migrations=False)
    return loader


#: Pairs of types, of which the second stores every value of the first.
_WIDER: Final = {
    ("SmallIntegerField", "IntegerField"),
    ("SmallIntegerField", "BigIntegerField"),
    ("IntegerField", "BigIntegerField"),
    ("CharField", "TextField"),
}
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


def objections(migration: Migration, before: ProjectState) -> list[str]:
    """Return why a migration breaks the code of the previous release, one sentence for each operation."""
    return list(_Check(migration.app_label, before).check(migration.operations))


class _Check:
    def __init__(self, app: str, state: ProjectState) -> None:
        self._app = app
        self._state = state.clone()
        #: Created by the migration itself, unknown to the previous release.
        self._models: set[str] = set()
        self._fields: set[tuple[str, str]] = set()

    def check(self, checked: Sequence[Operation]) -> Iterator[str]:
        """Yield the objections, and apply each operation to the state."""
        for operation in checked:
            if isinstance(operation, operations.SeparateDatabaseAndState):
                # State operations leave the database as the previous release needs it.
                state = self._state.clone()
                yield from self.check(operation.database_operations)
                operation.state_forwards(self._app, state)
                self._state = state
                continue
            if reason := self._objection(operation):
                yield f"{operation.describe()}: {reason}"
            if isinstance(operation, operations.CreateModel):
                self._models.add(operation.name_lower)
            elif isinstance(operation, operations.AddField):
                self._fields.add((operation.model_name_lower, operation.name_lower))
            operation.state_forwards(self._app, self._state)

    def _objection(self, operation: Operation) -> str | None:
        match operation:
            case operations.AddField():
                return _of_new_field(operation.field)
            case operations.AlterField():
                return _of_change(self._field(operation), operation.field)
            case operations.AddConstraint():
                return self._of_constraint(operation)
            case operations.RunPython() | operations.RunSQL():
                return None if operation.reversible else "there is no way back."
        if isinstance(operation, _HARMLESS):
            return None
        return "the previous release uses this name; leave it to a later release."

    def _field(self, operation: operations.AlterField) -> Field[Any, Any]:
        model = self._state.models[self._app, operation.model_name_lower]
        return model.fields[operation.name]

    def _of_constraint(self, operation: operations.AddConstraint) -> str | None:
        model = operation.model_name.lower()
        if model in self._models:
            return None
        named = _fields_of(operation.constraint)
        if named and all((model, name.lower()) in self._fields for name in named):
            return None
        return "rows of the previous release may violate it."


def _of_new_field(field: Field[Any, Any]) -> str | None:
    if isinstance(field, ManyToManyField) or field.null:
        return None
    if not field.has_db_default():
        return "the previous release inserts no value: give it null=True or a db_default."
    return "two rows of the previous release would have the same value." if field.unique else None


def _of_change(old: Field[Any, Any], new: Field[Any, Any]) -> str | None:
    kinds = (old.get_internal_type(), new.get_internal_type())
    if old.db_column != new.db_column:
        return "the previous release uses the column."
    if kinds[0] != kinds[1] and kinds not in _WIDER:
        return "it becomes another type."
    if old.null and not new.null:
        return "the previous release may store null."
    if new.max_length is not None and (old.max_length is None or new.max_length < old.max_length):
        return "it becomes shorter than values of the previous release."
    if new.unique and not old.unique:
        return "the previous release may store a value twice."
    if old.has_db_default() and not new.has_db_default() and not new.null:
        return "the previous release relies on its db_default."
    return None


def _fields_of(constraint: Any) -> list[str]:
    """Return the fields of a constraint, none if they are not known."""
    if isinstance(constraint, UniqueConstraint) and constraint.condition is None:
        return list(constraint.fields)
    if isinstance(constraint, CheckConstraint) and isinstance(constraint.condition, Q):
        return sorted(_fields_of_condition(constraint.condition))
    return []


def _fields_of_condition(condition: Q) -> set[str]:
    found: set[str] = set()
    for child in condition.children:
        if isinstance(child, Q):
            found |= _fields_of_condition(child)
        elif isinstance(child, tuple):
            found.add(child[0].partition("__")[0])
            # Another field that is compared with it.
            if hasattr(child[1], "name"):
                found.add(child[1].name)
        else:
            found.add("")  # an expression: it may use any field
    return found
