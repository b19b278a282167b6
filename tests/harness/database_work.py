"""Counts what the database does for a part of a test: figures that a busy machine does not change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext


@dataclass(slots=True)
class DatabaseWork:
    statements: int = 0
    #: Rows that PostgreSQL read, or tens of instructions of SQLite's virtual machine.
    steps: int = 0


@contextmanager
def database_work() -> Iterator[DatabaseWork]:
    """Count the work of what runs in this thread, in one transaction."""
    work = DatabaseWork()
    with transaction.atomic():
        with _steps(work), CaptureQueriesContext(connection) as queries:
            yield work
        work.statements = len(queries)


@contextmanager
def _steps(work: DatabaseWork) -> Iterator[None]:
    if connection.vendor == "sqlite":

        def count() -> int:
            work.steps += 1
            return 0

        connection.connection.set_progress_handler(count, 10)
        try:
            yield
        finally:
            connection.connection.set_progress_handler(None, 0)
        return
    work.steps = -_rows_read()
    yield
    work.steps += _rows_read()


def _rows_read() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"
        )
        return int(cursor.fetchone()[0] or 0)
