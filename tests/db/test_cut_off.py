"""A request whose connection to PostgreSQL is lost is answered with 503."""

import time
from collections.abc import Callable

import psycopg
import pytest
from django.db import connection, transaction

from director.web.errors import exception_handler
from jobgroups.database.statements import insert
from jobgroups.models import GroupLabel, JobGroup
from jobgroups.services.progress import ProgressRow, progress_flush
from tests.harness import factories

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's locks are meant"),
]


def _limited() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = 100")


def _by_its_idle_limit() -> None:
    _limited()
    time.sleep(0.5)


def _by_its_idle_limit_after_many_rows() -> None:
    _limited()
    group = JobGroup.objects.get()
    insert([GroupLabel(group=group, key=key, value="v") for key in "abc"])
    time.sleep(0.5)


def _by_its_idle_limit_after_much_progress() -> None:
    _limited()
    progress_flush(rows=[ProgressRow(f"j_{n}", n, 1.0, None, 1, 2) for n in range(3)])
    time.sleep(0.5)


def _by_its_shutdown() -> None:
    parameters = connection.get_connection_params() | {"autocommit": True}
    pid = connection.connection.info.backend_pid
    with psycopg.connect(**parameters) as other:
        other.execute("SELECT pg_terminate_backend(%s, 1000)", [pid])


def _on_its_way() -> None:
    connection.connection.close()


@pytest.mark.parametrize(
    "cut_off",
    [
        _by_its_idle_limit,
        _by_its_idle_limit_after_many_rows,
        _by_its_idle_limit_after_much_progress,
        _by_its_shutdown,
        _on_its_way,
    ],
)
def test_request_is_refused_and_stores_nothing_when_its_connection_is_lost(cut_off: Callable[[], None]) -> None:
    factories.backend("gpu-1")
    with pytest.raises(Exception) as met, transaction.atomic():  # noqa: PT011 the answer is looked at
        factories.submit()
        cut_off()
        JobGroup.objects.count()
    answer = exception_handler(met.value, {})
    assert answer is not None, f"a defect: {met.value!r}"
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    # Where PostgreSQL said why, it said that before it began to commit.
    if cut_off not in (_by_its_shutdown, _on_its_way):
        assert b"nothing was stored" in answer.content
    connection.close()
    assert JobGroup.objects.count() == 0
