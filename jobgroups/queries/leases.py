"""Reads runners and leases by the database's clock: which runners are alive, and which hold what."""

import datetime as dt
from typing import Final

from django.db import connection

from jobgroups.database.statements import KEY, Parameter, PreparedQuery, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.leases import LeaseTable
from jobgroups.domain.text import clock_time
from jobgroups.models import FilesProcess, Lease, Runner

#: A runner is alive while its heartbeat is younger.
HEARTBEAT_TIMEOUT: Final = dt.timedelta(seconds=10)
#: A lease that was free for longer is not wanted by any runner below its share.
UNCLAIMED_AFTER: Final = dt.timedelta(seconds=5)
#: A runner that is alive for longer is stable: other runners hand over leases to stable runners
#: only.
STABLE_AFTER: Final = dt.timedelta(seconds=3)
READ_ONLY: Final = (
    "The database refuses writes: nothing is stored and no job is sent until it takes them."
)
NAME_LOCK: Final = "comfyui-director: runner "  #: Prefix of the advisory lock on a runner's name.
#: Seconds within which a living runner acquires a lost lock on its name again.
LOCK_RETAKEN: Final = 4.0

# pg_locks shows a 64-bit advisory lock as two halves.
_DEAD_RUNNERS: Final = f"""
    SELECT name FROM {Runner._meta.db_table} WHERE NOT EXISTS (
        SELECT 1 FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) | objid::bigint = hashtextextended(%s || name, 0)
    )
    AND heartbeat_at < statement_timestamp() - %s * interval '1 second'
    AND pg_postmaster_start_time() < statement_timestamp() - %s * interval '1 second'
"""  # noqa: S608 no input in it


def database_now() -> dt.datetime:
    """Return the time of the database's clock, which all runners share, in whole milliseconds.

    On SQLite it is the clock of this machine.
    """
    if connection.vendor != "postgresql":
        return now()
    with connection.cursor() as cursor:
        # The time of the statement: the transaction may have waited for a lock since its start.
        cursor.execute("SELECT date_trunc('milliseconds', statement_timestamp())")
        moment: dt.datetime = cursor.fetchone()[0]
    return moment


def is_read_only() -> bool:
    """Return whether PostgreSQL refuses writes: a standby, or ``default_transaction_read_only``."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_read_only')")
        return bool(cursor.fetchone()[0] == "on")


def dead_runners() -> frozenset[str]:
    """Return the runners that are certainly dead: the lock on their name is free.

    The lock ends with its process, but also when PostgreSQL restarts or drops the connection; a
    living runner acquires it again at its next heartbeat. Therefore a free lock proves nothing in
    the server's first seconds or after a recent heartbeat. On SQLite there is only one runner.
    """
    if connection.vendor != "postgresql":
        return frozenset()
    with connection.cursor() as cursor:
        cursor.execute(_DEAD_RUNNERS, [NAME_LOCK, LOCK_RETAKEN, 2 * LOCK_RETAKEN])
        return frozenset(name for (name,) in cursor.fetchall())


def lease_table(runner: str) -> LeaseTable:
    moment, dead = database_now(), dead_runners()
    living = Runner.objects.filter(
        stopped_at__isnull=True, heartbeat_at__gt=moment - HEARTBEAT_TIMEOUT
    ).exclude(name__in={runner, *dead})
    started = dict(living.order_by().values_list("name", "started_at"))
    held_by_others: dict[str, str] = {}
    lying: set[str] = set()
    ends: list[dt.datetime] = []
    rows = Lease.objects.exclude(runner=runner).order_by()
    for backend_id, holder, until in rows.values_list("backend_id", "runner", "expires_at"):
        if holder and holder not in dead and until is not None and until > moment:
            held_by_others[backend_id] = holder
            ends.append(until)
        elif until is None or until <= moment - UNCLAIMED_AFTER:
            lying.add(backend_id)
    return LeaseTable(
        unclaimed=frozenset(lying),
        held_by_others=held_by_others,
        live_runners=frozenset(started),
        stable_runners=frozenset(
            name for name, began in started.items() if began <= moment - STABLE_AFTER
        ),
        next_free_in=(min(ends) - moment).total_seconds() if ends else None,
    )


def has_free_lease(runner: str) -> bool:
    if connection.vendor != "postgresql":
        return False
    others = Lease.objects.exclude(runner=runner)
    free = others.filter(expires_at__lt=database_now()) | others.filter(expires_at__isnull=True)
    return free.exists() or others.filter(runner__in=dead_runners()).exists()


def leases_held(runner: str) -> list[tuple[str, int]]:
    return [(backend_id, epoch) for backend_id, epoch in _held(runner)]


_held: Final = PreparedValues(
    lambda: Lease.objects.filter(runner=KEY).order_by().values_list("backend_id", "epoch")
)


def runner_alive() -> bool:
    return _live_runner.first(beaten_after=database_now() - HEARTBEAT_TIMEOUT) is not None


_live_runner: Final = PreparedQuery(
    lambda: (
        Runner.objects.filter(heartbeat_at__gt=Parameter("beaten_after"), stopped_at__isnull=True)
        .only("name")
        .order_by()[:1]
    )
)


def halt_reason() -> str:
    """Return why no runner reports, as a sentence; empty: one is alive.

    A heartbeat that is not stored proves no end of its runner.
    """
    if runner_alive():
        return ""
    if is_read_only():
        return READ_ONLY
    runners = Runner.objects.filter(stopped_at__isnull=True).order_by("-heartbeat_at")
    if (last := runners.values_list("heartbeat_at", flat=True).first()) is None:
        return "No runner is alive: no job is sent until one starts."
    return (
        f"No runner has reported since {clock_time(last, now())}: it ended, or the database is "
        "locked or full. No job is sent until one reports."
    )


def files_process_alive() -> bool:
    """Return whether the heartbeat of any process of `files` is younger than 10 s."""
    return FilesProcess.objects.filter(heartbeat_at__gt=database_now() - HEARTBEAT_TIMEOUT).exists()
