"""What a migration may do: the code of the release before it works on beside it, and after a way back.

docs/operations.md says it to people, in "Upgrades"; ``tests/unit/test_migrations.py`` holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.db.migrations import Migration, operations
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import CheckConstraint, Field, ManyToManyField, Q, UniqueConstraint

#: Types that take every value of another one.
_WIDER: Final = {
    ("SmallIntegerField", "IntegerField"),
    ("SmallIntegerField", "BigIntegerField"),
    ("IntegerField", "BigIntegerField"),
    ("CharField", "TextField"),
}
#: What changes no column that the old code knows, or what Django does with none.
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
    """Return why the code of the release before would not survive a migration, a sentence each.

    Args:
        migration: to look at.
        before: the models without it.
    """
    return list(_Looking(migration.app_label, before).at(migration.operations))


class _Looking:
    """One migration, operation by operation."""

    def __init__(self, app: str, state: ProjectState) -> None:
        self._app = app
        self._state = state.clone()
        #: What the migration itself has made, which no old code knows.
        self._models: set[str] = set()
        self._fields: set[tuple[str, str]] = set()

    def at(self, looked_at: Sequence[Operation]) -> Iterator[str]:
        """Yield the objections, and take in what each operation makes."""
        for operation in looked_at:
            if isinstance(operation, operations.SeparateDatabaseAndState):
                # What only Django's state forgets stays in the database, for the old code.
                told = self._state.clone()
                yield from self.at(operation.database_operations)
                operation.state_forwards(self._app, told)
                self._state = told
                continue
            why = self._objection(operation)
            if why:
                yield f"{operation.describe()}: {why}"
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
        return "the old code knows it by this name; let a later release do it, once none uses it."

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
        return "what the old code writes may break it."


def _of_new_field(field: Field[Any, Any]) -> str | None:
    if isinstance(field, ManyToManyField) or field.null:
        return None
    if not field.has_db_default():
        return "the old code names no value for it: give it null=True or a db_default."
    return "two rows of the old code would have one value." if field.unique else None


def _of_change(old: Field[Any, Any], new: Field[Any, Any]) -> str | None:
    kinds = (old.get_internal_type(), new.get_internal_type())
    if old.db_column != new.db_column:
        return "the old code knows it by its name."
    if kinds[0] != kinds[1] and kinds not in _WIDER:
        return "it becomes another type."
    if old.null and not new.null:
        return "the old code may leave it empty."
    if new.max_length is not None and (old.max_length is None or new.max_length < old.max_length):
        return "it becomes shorter than what the old code writes."
    if new.unique and not old.unique:
        return "the old code may write a value twice."
    if old.has_db_default() and not new.has_db_default() and not new.null:
        return "code that names no value for it relies on its db_default."
    return None


def _fields_of(constraint: Any) -> list[str]:
    """Return the fields that a constraint names; none where that cannot be told."""
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
            # Another field that it is compared with.
            if hasattr(child[1], "name"):
                found.add(child[1].name)
        else:
            found.add("")  # an expression: some field of the old code's, for all that is known
    return found
