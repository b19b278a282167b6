"""``/api/health``: one check for each part that the Director needs."""

import datetime as dt
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from django.conf import settings
from django.db import connection
from django.http import HttpResponse
from rest_framework.request import Request

from backends.queries import backend_list, unique_names
from director.web import processes
from director.web.processes import ProcessState
from director.web.tables import is_migrated
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.database.pools import write_threads
from jobgroups.database.shared_threads import Share
from jobgroups.domain.clock import iso
from jobgroups.domain.text import gibibytes, pluralize
from jobgroups.models import FilesProcess, Runner
from jobgroups.queries.backends import NO_LOAD, backend_loads, serialize_backend
from jobgroups.queries.leases import HEARTBEAT_TIMEOUT, READ_ONLY, database_now, is_read_only
from jobgroups.queries.outputs import failed_captures, oldest_due_capture
from jobgroups.queries.retention import retention_text
from jobgroups.services import stored_files

logger = logging.getLogger(__name__)
Process = TypeVar("Process", Runner, FilesProcess)

#: Timeouts in seconds of the database and of each message through Redis.
DATABASE_SECONDS: Final = 2.0
REDIS_SECONDS: Final = 1.0
STORAGE_SECONDS: Final = 2.0
#: A runner writes its marker into the storage after its start.
MARKED_AFTER: Final = dt.timedelta(minutes=1)
#: As long as the longest pause before a file is copied again.
CAPTURE_LATE: Final = dt.timedelta(minutes=10)
#: A restart after an unexpected error is reported for this long.
RESTART_SHOWN: Final = dt.timedelta(minutes=10)

#: One for each part, one for ``/readyz``, and one for requests that wait: a database or a storage
#: that does not answer can block a thread for long.
check_threads: Final = Share(4)


#: A result answers all requests for so long: clients without a token, and long polls, cause one
#: check a second.
_KEPT_SECONDS: Final = 1.0
READ_ONLY_TODO: Final = (
    "Set DIRECTOR_DATABASE_URL to the primary server, not a standby, and "
    "default_transaction_read_only to off."
)


class SharedCheck:
    """A check in a thread, at most one a second for all requests that need its result."""

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._began = 0.0
        self._last: Future[bool] | None = None

    def current(self) -> Future[bool]:
        """Return the last check, or start one. Used from one event loop."""
        is_old = time.monotonic() > self._began + _KEPT_SECONDS
        if self._last is None or (is_old and self._last.done()):
            self._last, self._began = check_threads.submit(self._work), time.monotonic()
        return self._last


class CheckedPart:
    """A part that is read in a thread, one read at a time: one that hangs takes no other thread."""

    def __init__(self) -> None:
        self._turn = threading.Semaphore()

    def answer_within(self, seconds: float, work: Callable[..., Any], *args: Any) -> Any:
        """Return what the part reports; None if it does not answer in time, or with an error."""
        ends = time.monotonic() + seconds
        try:
            if not self._turn.acquire(timeout=seconds):
                raise TimeoutError("an earlier read has not ended")
            answer = check_threads.submit(work, *args)
            answer.add_done_callback(lambda _: self._turn.release())
            return answer.result(timeout=ends - time.monotonic())
        except Exception as error:  # noqa: BLE001 a storage raises errors of its own classes
            logger.warning("health: no answer within %s s, or an error (%r)", seconds, error)
        return None


_database = CheckedPart()
_storage = CheckedPart()
_has_tables = threading.Event()  #: Set once the database has the tables of this version.


class Level(StrEnum):
    """Result of a check. The overall status is the worst of all."""

    OK = "ok"
    DEGRADED = "degraded"  #: It works with delays or limits.
    DOWN = "down"  #: Jobs cannot be processed.


@dataclass(frozen=True, slots=True)
class Check:
    status: Level
    detail: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Rows that the checks need, read at one time."""

    runners: list[Runner]
    moment: dt.datetime  #: Time of the reading by the database's clock, which heartbeats use.
    backends: dict[str, str]  #: Status of each enabled backend, by what identifies it for users.
    #: Seconds for which the oldest capture is due, and the name of its backend.
    capture: tuple[float, str] | None = None
    files: Sequence[FilesProcess] = ()  #: Processes of `files`, the last heartbeat first.
    failed_captures: int = 0  #: Captures that failed and are tried again later.
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What the check of the storage needs."""

    free_bytes: int
    strangers: Sequence[str] = ()  #: Live runners whose marker is not in this process's storage.


#: What needs the database, while that does not answer or stores nothing that processes report.
_UNKNOWN: Final = Check(Level.DOWN, "Unknown while the database does not answer or refuses writes.")


class HealthView(ApiView):
    reads_in = write_threads  # it also waits for Redis and the storage

    def get(self, request: Request) -> HttpResponse:
        """Return all checks; status 503 if one of them is down."""
        health = run_checks()
        return json_response(health, status=503 if health["status"] == Level.DOWN else 200)


def run_checks() -> dict[str, Any]:
    """Return ``{"status", "version", "checks": {name: {"status", "detail"}}}``."""
    facts: HealthReport | None = _database.answer_within(DATABASE_SECONDS, _read)
    known = _current(facts)
    checks: Mapping[str, Check] = {
        "database": database_check(facts),
        "channel_layer": channel_layer_check(
            settings.DIRECTOR_REDIS_URL,
            has_others=facts is not None
            and any(_is_elsewhere(runner, facts.moment) for runner in facts.runners),
        ),
        "runner": runner_check(known),
        "backends": backends_check(known),
        "captures": captures_check(known),
        "storage": storage_check(_storage.answer_within(STORAGE_SECONDS, _read_storage, facts)),
        "processes": processes_check(processes.states),
    }
    worst = max((check.status for check in checks.values()), key=list(Level).index)
    results = {name: asdict(check) for name, check in checks.items()}
    return {"status": worst, "version": settings.DIRECTOR_VERSION, "checks": results}


def database_answers() -> bool:
    """Return whether the database answers within ``DATABASE_SECONDS``."""
    return _database.answer_within(DATABASE_SECONDS, _ping) is not None


def _ping() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()
    return True


def is_ready() -> bool:
    """Return whether the database answers with the tables of this version, and the check of the
    runners is not down.
    """
    facts: HealthReport | None = _database.answer_within(DATABASE_SECONDS, _read_with_tables)
    return runner_check(_current(facts)).status is not Level.DOWN


def _read_storage(facts: HealthReport | None) -> StorageReport:
    free = stored_files.free_bytes()
    stored_files.require_storage()
    if facts is None:
        return StorageReport(free)
    users: list[Runner | FilesProcess] = [
        *_alive(facts, facts.runners),
        *_alive(facts, facts.files),
    ]
    strangers = [
        runner.name
        for runner in users
        # Another release may write no marker, and one that has just started may write it later.
        if runner.version == settings.DIRECTOR_VERSION
        and runner.started_at < facts.moment - MARKED_AFTER
        and not stored_files.marker_exists(runner=runner.pk, instance=runner.instance)
    ]
    return StorageReport(free, strangers)


def _read_with_tables() -> HealthReport | None:
    try:
        if not _has_tables.is_set() and is_migrated():
            _has_tables.set()
    finally:
        connection.close()
    return _read() if _has_tables.is_set() else None


def _read() -> HealthReport:
    try:
        runners = list(Runner.objects.filter(stopped_at__isnull=True).order_by("-heartbeat_at"))
        loads, names = backend_loads(), unique_names()
        statuses = {
            names.get(row.id, row.id): serialize_backend(row, loads.get(row.id, NO_LOAD))["status"]
            for row in backend_list()
            if row.enabled
        }
        return HealthReport(
            runners,
            database_now(),
            statuses,
            oldest_due_capture(),
            list(FilesProcess.objects.all()),
            failed_captures(),
            is_read_only(),
        )
    finally:
        connection.close()


def _current(facts: HealthReport | None) -> HealthReport | None:
    return None if facts is None or facts.is_read_only else facts


def database_check(facts: HealthReport | None) -> Check:
    """Return down if the database does not answer, or refuses writes."""
    if facts is None:
        return Check(Level.DOWN, f"No response within {DATABASE_SECONDS:g} s; see the log.")
    if facts.is_read_only:
        return Check(Level.DOWN, f"{READ_ONLY} {READ_ONLY_TODO}")
    return Check(Level.OK, "The database answers.")


def _is_elsewhere(runner: Runner, moment: dt.datetime) -> bool:
    pids = {os.getpid(), *(state.pid for state in processes.states)}
    is_here = runner.host == platform.node()[:255] and runner.pid in pids
    return not is_here and runner.heartbeat_at > moment - HEARTBEAT_TIMEOUT


def channel_layer_check(redis_url: str, *, has_others: bool = False) -> Check:
    """Return degraded if Redis does not answer: events arrive late, none is lost.

    An empty ``redis_url``: no Redis is configured. ``has_others``: a runner is alive that is not of
    this `serve`.
    """
    if not redis_url and has_others:
        return Check(
            Level.DEGRADED,
            "The runner is another process and there is no Redis: events arrive up to 2 s late,"
            " without progress and previews; set DIRECTOR_REDIS_URL in both processes.",
        )
    if not redis_url:
        return Check(Level.OK, "The processes of one `serve` need no Redis.")
    import redis  # noqa: PLC0415 it takes a tenth of a start, and most installations have none

    try:
        _round_trip(redis_url)
    except (redis.RedisError, OSError) as error:
        logger.warning("health: Redis does not answer (%s)", error)
        return Check(Level.DEGRADED, "Redis does not answer; events arrive late until it does.")
    return Check(Level.OK, "A message was received through Redis.")


def _round_trip(redis_url: str) -> None:
    import redis  # noqa: PLC0415 see above

    channel = f"director.health.{uuid.uuid4().hex}"
    with (
        redis.Redis.from_url(
            redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        ) as client,
        client.pubsub(ignore_subscribe_messages=False) as listening,
    ):
        listening.subscribe(channel)
        if listening.get_message(timeout=REDIS_SECONDS) is None:
            raise redis.TimeoutError("no confirmation of the subscription")
        client.publish(channel, "1")
        if listening.get_message(timeout=REDIS_SECONDS) is None:
            raise redis.TimeoutError("no message came back")


def _alive(facts: HealthReport, processes: Sequence[Process]) -> list[Process]:
    return [
        process for process in processes if process.heartbeat_at > facts.moment - HEARTBEAT_TIMEOUT
    ]


def runner_check(facts: HealthReport | None) -> Check:
    """Return down without a live runner; degraded if groups are accepted without one."""
    if facts is None:
        return _UNKNOWN
    absent = Level.DEGRADED if settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER else Level.DOWN
    runners, moment = facts.runners, facts.moment
    if not runners:
        return Check(absent, "No runner is registered; start one with `serve` or `runner`.")
    alive = _alive(facts, runners)
    if not alive:
        since = iso(runners[0].heartbeat_at)
        return Check(
            absent,
            f"No heartbeat since {since}: the runner ended, or the database is locked or full.",
        )
    for process in alive:
        if process.last_error_at is not None and process.last_error_at > moment - RESTART_SHOWN:
            return Check(
                Level.DEGRADED,
                f"{process.name} was restarted after an unexpected error, last at "
                f"{iso(process.last_error_at)}"
                f" ({process.restarts} in all); the log has the traceback.",
            )
    age = (moment - alive[0].heartbeat_at).total_seconds()
    return Check(Level.OK, f"{len(alive)} alive; the last heartbeat was {age:.1f} s ago.")


def backends_check(facts: HealthReport | None) -> Check:
    """Return degraded if an enabled backend is offline or quarantined, or no backend takes jobs, or
    no runner finds it out.

    A paused or draining backend is not a fault.
    """
    if facts is None:
        return _UNKNOWN
    if not (backends := facts.backends):
        return Check(Level.DEGRADED, "No backend is registered and enabled.")
    if not _alive(facts, facts.runners):
        return Check(Level.DEGRADED, "Whether they answer is not known: no runner probes them.")
    faults = [
        _these(backends, ("offline", "unknown"), "does not answer", "do not answer"),
        _these(backends, ("quarantined",), "is quarantined", "are quarantined"),
    ]
    held = [
        _these(backends, ("paused",), "is paused", "are paused"),
        _these(backends, ("draining",), "is being drained", "are being drained"),
    ]
    works = any(status in ("online", "busy") for status in backends.values())
    text = " ".join(sentence for sentence in [*faults, *held] if sentence)
    if text:
        return Check(Level.OK if works and not any(faults) else Level.DEGRADED, text)
    is_single = len(backends) == 1
    return Check(
        Level.OK, "The only backend answers." if is_single else f"All {len(backends)} answer."
    )


def captures_check(facts: HealthReport | None) -> Check:
    """Return degraded if an output has waited for long to be copied, or what copies outputs is not
    alive.
    """
    if facts is None:
        return _UNKNOWN
    if not settings.DIRECTOR_CAPTURE:
        return Check(Level.OK, "Outputs are not copied (DIRECTOR_CAPTURE=0).")
    level, text = Level.OK, ""
    if facts.capture is not None:
        seconds, name = facts.capture
        text = f"The oldest output to be copied has waited for {seconds:.0f} s."
        if seconds > CAPTURE_LATE.total_seconds():
            level, text = (
                Level.DEGRADED,
                f"An output of {name} has waited for {seconds:.0f} s to be copied.",
            )
    if count := facts.failed_captures:
        again = ("output could not be copied and is", "outputs could not be copied and are")
        text += f" {pluralize(count, *again)} tried again."
    text = text.lstrip() or "No output waits to be copied."
    if alive := _alive(facts, facts.files):
        return Check(level, f"{text} Alive processes of `files`: {len(alive)}.")
    copies = bool(_alive(facts, facts.runners))
    if facts.capture is not None and not copies:
        return Check(
            Level.DEGRADED,
            f"{text} Neither a runner nor a process of `files` is alive, which would copy it.",
        )
    if facts.files:
        rest = "the runners copy outputs." if copies else "no runner is alive either."
        return Check(
            Level.DEGRADED,
            f"{text} No process of `files` since {iso(facts.files[0].heartbeat_at)}; {rest}",
        )
    return Check(level, text)


def storage_check(report: StorageReport | None) -> Check:
    """Return down if the storage does not answer, or a runner uses another one; degraded below the
    minimum of space.
    """
    if report is None and not stored_files.is_local():
        return Check(
            Level.DEGRADED,
            "The storage of files does not answer; see the log. Outputs are copied when it does, "
            "uploads and stored files"
            " are refused. Jobs go on; those with assets wait.",
        )
    if report is None:
        return Check(
            Level.DOWN,
            f"The storage of files did not answer within {STORAGE_SECONDS:g} s; see the log.",
        )
    if report.strangers:
        names = ", ".join(report.strangers)
        return Check(
            Level.DOWN,
            f"Another storage of files than here is used by {names}: share DIRECTOR_FILES_DIR.",
        )
    free, floor = report.free_bytes, settings.DIRECTOR_MIN_FREE_BYTES
    if free < floor:
        return Check(
            Level.DEGRADED,
            f"{gibibytes(free)} are free, less than {gibibytes(floor)}"
            " (DIRECTOR_MIN_FREE_BYTES): outputs are not copied, and uploads are refused. Jobs "
            "go on.",
        )
    return Check(Level.OK, f"{gibibytes(free)} are free. {retention_text()}".rstrip())


def processes_check(states: Sequence[ProcessState]) -> Check:
    """Return degraded if a process of this `serve` has ended unexpectedly in the last minutes, or
    is away.
    """
    if not states:
        return Check(Level.OK, "One process.")
    recent = dt.datetime.now(dt.UTC) - RESTART_SHOWN
    sentences = []
    for state in states:
        ended_at = dt.datetime.fromtimestamp(state.ended_at, dt.UTC)
        if state.ends and (not state.is_running or ended_at > recent):
            now = "It runs again." if state.is_running else "It is being started again."
            text = (
                f"{state.name} ended unexpectedly at {iso(ended_at)} ({state.cause}), "
                f"{state.ends} × in all. {now}"
            )
            sentences.append(text)
    if sentences:
        return Check(Level.DEGRADED, " ".join(sentences))
    return Check(
        Level.OK, f"Alive: {', '.join(state.name for state in states if state.is_running)}."
    )


def _these(backends: Mapping[str, str], states: Sequence[str], singular: str, many: str) -> str:
    """Return a sentence with number and names of the backends in these states; empty for none."""
    matching = sorted(name for name, status in backends.items() if status in states)
    if not matching:
        return ""
    names = ", ".join(matching[:5]) + (" …" if len(matching) > 5 else "")
    return (
        f"{len(matching)} of {len(backends)} {singular if len(matching) == 1 else many}: {names}."
    )
