"""What a power cut may take: the last progress, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from jobgroups.services.progress import relax_durability

pytestmark = pytest.mark.django_db

_FULL, _NORMAL = 2, 1


def _synced() -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous")
        return int(cursor.fetchone()[0])


def _of_another_connection(*, relaxed: bool) -> int:
    try:
        if relaxed:
            relax_durability()
        return _synced()
    finally:
        connection.close()


def test_every_commit_is_synced_but_those_of_the_progress_flush() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL syncs each commit by itself.")
    with ThreadPoolExecutor(1) as thread:
        flush = thread.submit(_of_another_connection, relaxed=True).result()
        writer = thread.submit(_of_another_connection, relaxed=False).result()
    assert (flush, writer, _synced()) == (_NORMAL, _FULL, _FULL)
