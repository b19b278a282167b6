"""Claims captures, and stores copied files with theirs, many in one statement each.

A statement changes only the rows of the plain case, and returns which those are.
"""

import datetime as dt
import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from django.db import connection

from jobgroups.models import Capture, ChildJob, StoredFile

_CAPTURES, _CHILDREN = Capture._meta.db_table, ChildJob._meta.db_table
_FILES: Final = StoredFile._meta.db_table
_FILE_COLUMNS: Final = ("id", "blake3", "sha256", "size_bytes", "width", "height", "duration")

# Names of the schema alone are in the statements.
_DUE: Final = (
    f"SELECT d.id FROM {_CAPTURES} d WHERE d.backend_id = b.column1"  # noqa: S608
    " AND d.due_at <= %s ORDER BY d.due_at LIMIT %s"
)
#: Rows that another process claims, stores or deletes at this moment are skipped. SQLite has one
#: writer.
_PICKED: Final = {
    "postgresql": f"CROSS JOIN LATERAL ({_DUE} FOR UPDATE SKIP LOCKED) AS p",
    "sqlite": f"JOIN {_CAPTURES} p ON p.id IN ({_DUE})",
}


def claim(
    backend_ids: Collection[str], *, limit: int, moment: dt.datetime, until: dt.datetime
) -> list[int]:
    """Move the oldest captures of each backend that are due at a moment, at most so many; return
    their ids.
    """
    times = list(map(connection.ops.adapt_datetimefield_value, (moment, until)))
    return _ids(
        f"WITH picked AS (SELECT p.id FROM (VALUES {_places(backend_ids)}) AS b {_PICKED[connection.vendor]})"  # noqa: S608
        f" UPDATE {_CAPTURES} SET due_at = %s WHERE id IN (SELECT id FROM picked) RETURNING id",
        [*backend_ids, times[0], limit, times[1]],
    )


def lock_unstored(ids: Collection[int]) -> list[tuple[int, int, str, str | None, int | None]]:
    """Lock captures without a file and their children, under which outputs are marked as replaced.

    Returns their ids, numbers and backends, and the outputs and attempts of the children.
    """
    return _execute(
        "SELECT p.id, p.number, p.backend_id, c.outputs_json, c.current_attempt_id"  # noqa: S608
        f" FROM {_CAPTURES} p JOIN {_CHILDREN} c ON c.id = p.child_id WHERE p.id IN ({_list(ids)})"
        f" AND p.file_id IS NULL ORDER BY c.id, p.id{_lock('NO KEY UPDATE OF c, p')}",
        ids,
    )


def contents(blake3s: Collection[str], *, lock: bool = False) -> dict[str, str]:
    """Return the keys of the stored files with these contents; locked as a reference locks them,
    against deletion.
    """
    rows = _execute(
        f"SELECT blake3, id FROM {_FILES} WHERE blake3 IN ({_list(blake3s)}) ORDER BY id"  # noqa: S608
        f"{_lock('KEY SHARE') if lock else ''}",
        blake3s,
    )
    return dict(rows)


def insert_files(files: Sequence[StoredFile]) -> dict[str, str]:
    """Insert files, without those whose content another process has stored; return the keys of the
    new ones by content.
    """
    values = [
        value
        # In one order: each waits for a transaction that has inserted the same content.
        for file in sorted(files, key=lambda file: file.blake3)
        for value in (
            *(getattr(file, name) for name in _FILE_COLUMNS),
            connection.ops.adapt_datetimefield_value(file.created_at),
        )
    ]
    return dict(
        _execute(
            f"INSERT INTO {_FILES} ({', '.join(_FILE_COLUMNS)}, created_at)"  # noqa: S608
            f" VALUES {_places(files, len(_FILE_COLUMNS) + 1)} ON CONFLICT DO NOTHING RETURNING "
            "blake3, id",
            values,
        )
    )


def with_earlier(rows: Collection[tuple[int, str, str, int | None]]) -> set[int]:
    """Return the captures whose content an earlier attempt may have under the same name by mistake.

    ``rows`` are captures, keys of files, digests and attempts. Captures of the previous release
    have no digest.
    """
    # Two searches: of an OR, SQLite would use the index of the files alone.
    return set(
        _ids(
            f"SELECT v.column1 FROM (VALUES {_places(rows, 4, ints=(0, 3))}) AS v WHERE EXISTS (SELECT 1"  # noqa: S608
            f" FROM {_CAPTURES} e JOIN {_CHILDREN} c ON c.id = e.child_id WHERE e.digest = "
            "v.column3"
            " AND e.file_id = v.column2 AND c.current_attempt_id < v.column4)"
            f" OR EXISTS (SELECT 1 FROM {_CAPTURES} e WHERE e.digest IS NULL AND e.file_id = "
            "v.column2)",
            itertools.chain.from_iterable(rows),
        )
    )


def refer(rows: Collection[tuple[int, str, str, str]]) -> set[int]:
    """Store captures with their files, unless another process was first; return their ids.

    ``rows`` are captures, keys of files, digests and reasons.
    """
    return set(
        _ids(
            f"UPDATE {_CAPTURES} SET file_id = v.column2, digest = v.column3, reason = v.column4, due_at = NULL"  # noqa: S608
            f" FROM (VALUES {_places(rows, 4, ints=(0,))}) AS v"
            f" WHERE {_CAPTURES}.id = v.column1 AND {_CAPTURES}.file_id IS NULL RETURNING "
            f"{_CAPTURES}.id",
            itertools.chain.from_iterable(rows),
        )
    )


def _execute(sql: str, values: Iterable[Any]) -> list[Any]:
    """Execute a statement, unless it is about no rows; return what it returns."""
    if not (values := list(values)):
        return []
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows: list[Any] = cursor.fetchall()
    return rows


def _ids(sql: str, values: Iterable[Any]) -> list[int]:
    return [row[0] for row in _execute(sql, values)]


def _list(values: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def _places(rows: Collection[Any], columns: int = 1, *, ints: Collection[int] = ()) -> str:
    """Return the places of rows of VALUES. PostgreSQL takes a column with NULL in its first row for
    a text.
    """
    first = ", ".join("CAST(%s AS bigint)" if at in ints else "%s" for at in range(columns))
    return ", ".join([f"({first})"] * len(rows))


def _lock(mode: str) -> str:
    return f" FOR {mode}" if connection.features.has_select_for_update else ""
