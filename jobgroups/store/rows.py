"""Updates many rows, each with values of its own, in one statement, which names the rows that it
changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from django.db import connection
from django.db.models import Field, Model

from jobgroups.database.statements import adapt

_AT_ONCE: Final = 32  #: The most rows of a statement.


def update_rows(
    model: type[Model], rows: Mapping[Any, Mapping[str, Any]], **allowed: Collection[str]
) -> set[Any]:
    """Update rows by their keys, each if the columns of ``allowed`` have one of the values there.

    Rows with equal names of columns share a statement. A key names one row: two values for one row
    would change it once. The caller has locked the rows in order: PostgreSQL promises none. Returns
    the keys of the rows that were changed.
    """
    by_names: dict[tuple[str, ...], list[Any]] = {}
    for key, fields in rows.items():
        by_names.setdefault(tuple(fields), []).append(key)
    changed: set[Any] = set()
    guards = tuple((name, len(values)) for name, values in allowed.items())
    last = list(itertools.chain.from_iterable(allowed.values()))
    for names, keys in by_names.items():
        for some in _parts(keys):
            values = [adapt(value) for key in some for value in (key, *rows[key].values())]
            with connection.cursor() as cursor:
                cursor.execute(
                    _updating(model, names, len(some), guards, connection.vendor), values + last
                )
                changed.update(key for (key,) in cursor.fetchall())
    return changed


def _parts(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(keys), _AT_ONCE):
        yield keys[first : first + _AT_ONCE]


@cache
def _updating(
    model: type[Model],
    names: tuple[str, ...],
    count: int,
    guards: tuple[tuple[str, int], ...],
    vendor: str,
) -> str:
    """Return the statement. Its parameters are the key and the values of each row, then the allowed
    values.
    """
    own = model._meta
    fields = {field.attname: field for field in own.local_concrete_fields}
    table, key = own.db_table, f"{own.db_table}.{own.pk.column}"
    changes = (
        f"{fields[name].column} = {_typed(fields[name], at, vendor)}"
        for at, name in enumerate(names, 2)
    )
    listed = ", ".join([f"({', '.join(['%s'] * (len(names) + 1))})"] * count)
    guarded = (
        f" AND {table}.{fields[name].column} IN ({', '.join(['%s'] * many)})"
        for name, many in guards
    )
    return (
        f"UPDATE {table} SET {', '.join(changes)} FROM (VALUES {listed}) AS v"  # noqa: S608 names of the schema
        f" WHERE {key} = v.column1{''.join(guarded)} RETURNING {key}"
    )


def _typed(field: Field[Any, Any], number: int, vendor: str) -> str:
    """Return a column of VALUES; PostgreSQL takes one with NULL alone for a text."""
    column = f"v.column{number}"
    if vendor == "sqlite" or field.get_internal_type() in ("CharField", "TextField"):
        return column
    return f"CAST({column} AS {field.db_type(connection)})"
