"""Prepared statements for hot queries: building the SQL takes Django longer than the query itself.

For a row with many columns Django takes five times as long as the database and the creation of the
objects together.
"""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from types import NoneType
from typing import Any, Final, Generic, TypeVar

from django.db import connection
from django.db.models import (
    BooleanField,
    CharField,
    DateTimeField,
    Expression,
    Field,
    FloatField,
    ForeignKey,
    IntegerField,
    Model,
    QuerySet,
    TextField,
)
from django.db.models.query import get_related_populators

M = TypeVar("M", bound=Model)


class Parameter(Expression):
    """A named placeholder in a prepared query."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __str__(self) -> str:
        # ``…_id__in`` of a foreign key would compare with this text.
        raise TypeError(f"{self.name} is no value yet.")

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self]


KEY: Final = Parameter("key")  #: The parameter of a query that has only one.


class PreparedQuery(threading.local, Generic[M]):
    """A query set with parameters, compiled once per thread. It returns the instances that Django
    returns.

    ``rows`` builds the query set, with ``KEY`` or named ``Parameter`` objects in place of the
    values. A query set that locks rows is executed within a transaction only.
    """

    def __init__(self, rows: Callable[[], QuerySet[M]]) -> None:
        self._rows = rows

    def __call__(self, key: Any = None, **values: Any) -> list[M]:
        """Execute the query with ``key``, or with a value for each named parameter."""
        return self._compile.instances(self.raw(key, **values))

    def raw(self, key: Any = None, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows as the database gives them: equal ones of two executions have equal
        values.
        """
        return self._compile.execute({KEY.name: key, **values})

    def instance(self, row: tuple[Any, ...]) -> M:
        """Return the instance of a row that ``raw`` has returned in this thread."""
        return self._compile.instances([row])[0]

    def column(self, name: str) -> int:
        """Return the place of an attribute of the model, or of an annotation, in the rows of
        ``raw``.
        """
        query = self._compile
        return query.annotated[name] if name in query.annotated else query.place(name)

    @cached_property
    def _compile(self) -> _Query[M]:
        # Each thread has attributes of its own: a compiled query belongs to its connection.
        return _Query(self._rows())

    def first(self, key: Any = None, **values: Any) -> M | None:
        rows = self(key, **values)
        return rows[0] if rows else None

    def get(self, key: Any) -> M:
        rows = self(key)
        if not rows:
            model: Any = self._rows().model
            raise model.DoesNotExist(f"There is no such row as {key}.")
        return rows[0]


class PreparedValues(threading.local):
    """A ``values_list`` with parameters, compiled once per thread; ``rows`` is as of
    :class:`PreparedQuery`.
    """

    def __init__(self, rows: Callable[[], QuerySet[Any, tuple[Any, ...]]]) -> None:
        self._rows = rows

    def __call__(self, key: Any = None, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows, with ``key`` or a value for each named parameter."""
        compiled = self._compile
        return compiled.converted(compiled.execute({KEY.name: key, **values}))

    @cached_property
    def _compile(self) -> _Sql:
        return _Sql(self._rows())


class _Sql:
    """The SQL of a query set, and the converters of its columns."""

    def __init__(self, rows: QuerySet[Any, Any]) -> None:
        self._compiler: Any = rows.query.get_compiler(connection=connection)
        self._sql, parameters = self._compiler.as_sql()
        self._parameters: list[Any] = list(parameters)
        self._converters = self._compiler.get_converters(
            [column[0] for column in self._compiler.select]
        )

    def execute(self, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        parameters = [
            adapt(values[parameter.name]) if isinstance(parameter, Parameter) else parameter
            for parameter in self._parameters
        ]
        with connection.cursor() as cursor:
            cursor.execute(self._sql, parameters)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def converted(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return rows of ``execute`` with the values that Django gives."""
        if not self._converters:
            return list(rows)
        return list(map(tuple, self._compiler.apply_converters(rows, self._converters)))


class _Query(_Sql, Generic[M]):
    """The SQL and the column layout that ``ModelIterable`` computes for every query set."""

    def __init__(self, rows: QuerySet[M]) -> None:
        super().__init__(rows)
        compiler = self._compiler
        selected = compiler.klass_info["select_fields"]
        self._fields = slice(selected[0], selected[-1] + 1)
        self._names = [column[0].target.attname for column in compiler.select[self._fields]]
        # The stubs are of a later Django.
        self._related = get_related_populators(  # type: ignore[call-arg]
            compiler.klass_info, compiler.select, connection.alias
        )
        self.annotated: dict[str, int] = compiler.annotation_col_map or {}
        self._model = rows.model

    def place(self, name: str) -> int:
        first: int = self._fields.start
        return first + self._names.index(name)

    def instances(self, rows: Sequence[tuple[Any, ...]]) -> list[M]:
        return [self._instance(row) for row in self.converted(rows)]

    def _instance(self, row: Sequence[Any]) -> M:
        made = self._model.from_db(connection.alias, self._names, row[self._fields])
        for related in self._related:
            related.populate(row, made)
        for name, column in self.annotated.items():
            setattr(made, name, row[column])
        return made


def adapt(value: Any) -> Any:
    """Return a parameter as the driver of the database takes it."""
    is_moment = isinstance(value, dt.datetime)
    return connection.ops.adapt_datetimefield_value(value) if is_moment else value


def update_where(
    model: type[Model], key: Any, fields: Mapping[str, Any], **allowed: Collection[Any]
) -> bool:
    """Update one row, as ``filter(pk=key, …__in=allowed).update(**fields)`` does; for a foreign key
    give the key.

    Returns whether the row exists and had allowed values.
    """
    if not all(allowed.values()):
        # PostgreSQL refuses an empty list.
        return False
    sql, columns = _updating(
        model, tuple(fields), tuple((field, len(allowed[field])) for field in allowed)
    )
    values = [*fields.values(), key, *(value for some in allowed.values() for value in some)]
    prepared = [
        column.get_db_prep_save(value, connection)
        for column, value in zip(columns, values, strict=True)
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql, prepared)
        changed: int = cursor.rowcount
    return changed > 0


@cache
def _updating(
    model: type[Model], names: tuple[str, ...], allowed: tuple[tuple[str, int], ...]
) -> tuple[str, list[Field[Any, Any]]]:
    """Return the statement, and the fields whose values it takes in order."""
    own = model._meta
    by_name = {field.attname: field for field in own.local_concrete_fields}
    by_name |= {field.name: field for field in own.local_concrete_fields}
    quote = connection.ops.quote_name
    changed = ", ".join(f"{quote(str(by_name[name].column))} = %s" for name in names)
    primary = own.pk
    conditions = [f"{quote(str(primary.column))} = %s"]
    columns = [*(by_name[name] for name in names), primary]
    for name, count in allowed:
        places = ", ".join(["%s"] * count)
        conditions.append(f"{quote(str(by_name[name].column))} IN ({places})")
        columns += [by_name[name]] * count
    where = " AND ".join(conditions)
    return f"UPDATE {quote(own.db_table)} SET {changed} WHERE {where}", columns  # noqa: S608 names of the schema


#: Parameters of rows in a statement: PostgreSQL allows 65,535. SQLite, which keeps prepared
#: statements, always 999.
_MOST_VALUES: Final = {"postgresql": 60_000, "sqlite": 900}


class Insertion:
    """Rows of one model to insert, with the values of the columns: making them takes longer than
    the statement.

    ``bulk_create`` does the same; here generated keys are not set, and a value that all rows have
    is sent once. ``later`` names the column that gets its values with the execution.
    """

    def __init__(self, rows: Sequence[Model], later: str = "") -> None:
        self._rows = rows
        self._own: dict[str, Sequence[Any]] = {}
        self._common: dict[str, Any] = {}
        model = type(rows[0])
        self._table, self._key = model._meta.db_table, str(model._meta.pk.column)
        for field, column, plain in _inserted_columns(model):
            values = [getattr(row, field.attname) for row in rows]
            if not plain.issuperset(map(type, values)):
                values = list(_prepare_values(field, values))
            if (
                len(rows) == 1
                or field.attname == later
                or any(value is not values[0] for value in values)
            ):
                self._own[column] = values
            else:
                self._common[column] = values[0]

    def execute(self, *, returning: str = "", **later: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Insert the rows by one statement, or by a few, with these values of a column.

        Returns the generated keys, in any order, each with the value of a column that is named.

        After an ``IntegrityError`` the caller's transaction is rolled back. ``executemany`` would
        be a statement for each row: on SQLite each waits for the interpreter's lock. psycopg sends
        it as a pipeline, after which PostgreSQL's timeout for idle transactions does not start, and
        a suspended process would keep its rows locked.
        """
        own, common = self._own | later, list(self._common.values())
        values = list(zip(*own.values(), strict=True))
        quote, alias = connection.ops.quote_name, connection.alias
        columns = ", ".join(map(quote, own | self._common))
        place, rows_at_once = (
            f"({', '.join(['%s'] * len(own))})",
            _MOST_VALUES[connection.vendor] // len(own),
        )
        keys: list[tuple[Any, Any]] = []
        with connection.cursor() as cursor:
            for first in range(0, len(values), rows_at_once):
                rows = values[first : first + rows_at_once]
                listed = f"VALUES {', '.join([place] * len(rows))}"
                if common:
                    # PostgreSQL takes a column of VALUES for a text if it has NULL alone: such a
                    # column is common.
                    listed = f"SELECT own.*{', %s' * len(common)} FROM ({listed}) AS own"  # noqa: S608 no values
                sql = f"INSERT INTO {quote(self._table)} ({columns}) {listed}"
                if returning:
                    sql += f" RETURNING {quote(self._key)}, {quote(returning)}"
                cursor.execute(sql, [*common, *itertools.chain.from_iterable(rows)])
                keys += cursor.fetchall() if returning else []
        for row in self._rows:
            row._state.adding, row._state.db = False, alias
        return keys


def _prepare_values(field: Field[Any, Any], values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a column. Most rows share theirs, and Django takes some microseconds for
    each.
    """
    last: Any = object()
    prepared = None
    for value in values:
        if value is not last:
            last = value
            is_moment = isinstance(field, DateTimeField)
            prepared = adapt(value) if is_moment else field.get_db_prep_save(value, connection)
        yield prepared


def insert(rows: Sequence[Model]) -> None:
    if rows:
        Insertion(rows).execute()


def insert_with_keys(rows: Sequence[Model], *, by: str) -> None:
    """Insert rows, and set the keys that the database gives them. The values of ``by`` differ."""
    keys = {value: key for key, value in Insertion(rows).execute(returning=by)}
    for row in rows:
        row.pk = keys[getattr(row, by)]


_NOTHING: Final[frozenset[type]] = frozenset()
#: Types of values that the drivers take as they are, by the class of the column.
_PLAIN: Final[Sequence[tuple[type[Field[Any, Any]], frozenset[type]]]] = (
    (CharField, frozenset({str, NoneType})),
    (TextField, frozenset({str, NoneType})),
    (IntegerField, frozenset({int, NoneType})),
    (FloatField, frozenset({float, NoneType})),
    (BooleanField, frozenset({bool})),
    (ForeignKey, frozenset({str, int, NoneType})),
    (DateTimeField, frozenset({NoneType})),
)


@cache
def _inserted_columns(model: type[Model]) -> list[tuple[Field[Any, Any], str, frozenset[type]]]:
    """Return the columns that a row gets, and of each the types of values that Django need not
    prepare.
    """
    return [
        (
            field,
            str(field.column),
            next((plain for kind, plain in _PLAIN if isinstance(field, kind)), _NOTHING),
        )
        for field in model._meta.local_concrete_fields
        if field is not model._meta.auto_field
    ]
