"""What a power cut may take: the last progress, and nothing else."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from backends.models import Backend
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


def test_every_commit_but_progress_is_synced() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL syncs each commit by itself.")
    with ThreadPoolExecutor(1) as thread:
        flush = thread.submit(_of_another_connection, relaxed=True).result()
        writer = thread.submit(_of_another_connection, relaxed=False).result()
    assert (flush, writer, _synced()) == (_NORMAL, _FULL, _FULL)


@pytest.mark.django_db(transaction=True)
def test_transaction_that_has_only_read_keeps_other_writers_out() -> None:
    """Begun DEFERRED, its first write fails at once if another process wrote since its first read."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL locks rows.")
    other = sqlite3.connect(connection.settings_dict["NAME"], timeout=0, isolation_level=None)
    with contextlib.closing(other):
        with transaction.atomic():
            assert not Backend.objects.exists()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            Backend.objects.create(id="gpu-1", name="gpu-1", url="http://localhost:1")
        other.execute("BEGIN IMMEDIATE")
