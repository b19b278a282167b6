"""Counters and histograms of what happens in processes, for Prometheus. ``queries.metrics`` has
what the rows say.

A process that serves or runs jobs keeps its values in files of the data folder: they continue after
a restart, and do not depend on rows, which are purged. Its files have the lowest number whose lock
is free, so that they are as many as the processes at one time.
"""

import datetime as dt
import itertools
import json
import logging
import os
import struct
import time
import tomllib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

import filelock
from django.db import transaction
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)
M = TypeVar("M", Counter, Gauge, Histogram, Summary)

#: At most this many workflows have labels of their own in a process, the first ones that complete a
#: job: see performance.md; and this many submitters, the first ones of whom a job starts.
MAX_WORKFLOWS: Final = 8
_MOST: Final = {"workflow": MAX_WORKFLOWS, "submitter": 16}
OTHER: Final = "other"  #: The label of all others.
#: A workflow or submitter without a job for so long loses its label when its process starts.
_UNUSED_SECONDS: Final = 7 * 86_400.0
#: Bytes of a new file, enough for 800 backends. They are written: on a full disk a page of a sparse
#: file that cannot be stored would end the process.
_FILE_BYTES: Final = 4 * 2**20
_DAMAGED: Final = (OSError, ValueError, LookupError, RuntimeError, TypeError, struct.error)
# Any: the library has no types for these.
_mmap: Final[Any] = MmapedDict
_merge: Final[Callable[[list[str]], Iterable[Metric]]] = MultiProcessCollector.merge
_values: Final[Any] = values

TABLES: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
_in_memory: Final = CollectorRegistry()


def _new(kind: type[M], name: str) -> M:
    return kind(name, namespace="director", registry=_in_memory, **TABLES["processes"][name])


jobs: Final = _new(Counter, "jobs")
failures: Final = _new(Counter, "failures")
retries: Final = _new(Counter, "retries")
job_wait: Final = _new(Histogram, "job_wait_seconds")
turn_wait: Final = _new(Summary, "turn_wait_seconds")
job_seconds: Final = _new(Histogram, "job_seconds")
backend_job_seconds: Final = _new(Summary, "backend_job_seconds")
busy_seconds: Final = _new(Counter, "backend_busy_seconds")
model_switches: Final = _new(Counter, "model_switches")
event_lag: Final = _new(Histogram, "event_lag_seconds")
database_seconds: Final = _new(Histogram, "database_seconds")
open_sockets: Final = _new(Gauge, "open_sockets")

_named: Final = {label: set[str]() for label in _MOST}  #: Those with a label of their own.


def _label(name: str, value: str) -> str:
    named = _named[name]
    if len(named) < _MOST[name]:
        named.add(value)
    return value if value in named else OTHER


def observe_job(workflow: str, backend_id: str, seconds: float) -> None:
    """Record the execution of a completed job; ``workflow`` is the digest."""
    label = _label("workflow", workflow)
    job_seconds.labels(label).observe(seconds)
    backend_job_seconds.labels(label, backend_id).observe(seconds)


def count_on_commit(counter: Counter, *labels: str, by: int = 1) -> None:
    transaction.on_commit(lambda: counter.labels(*labels).inc(by), robust=True)


def observe_wait(
    since: dt.datetime, started_at: dt.datetime, *, is_bound: bool, level: int, submitter: str
) -> None:
    seconds = max(0.0, (started_at - since).total_seconds())

    def observe() -> None:
        job_wait.labels("bound" if is_bound else "pool").observe(seconds)
        # The tens of the level.
        turn_wait.labels(str(level // 10 * 10), _label("submitter", submitter)).observe(seconds)

    transaction.on_commit(observe, robust=True)


class _Entry(NamedTuple):
    """A value in a file. ``unused_since`` is set when a process starts; with a new value the
    library sets 0.
    """

    key: str
    value: float
    unused_since: float

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = json.loads(self.key)[2]
        return labels


def open_files(folder: Path, backends: Collection[str]) -> None:
    """Keep values in files of a folder from now on, or in memory if that fails, which is logged.

    Of earlier processes the values of ``backends`` are kept, and of workflows that had a job in the
    last week: others must not have labels for ever.
    """
    try:
        folder.mkdir(exist_ok=True)
        number, own = next(
            (at, lock)
            for at in itertools.count(1)
            if (lock := _lock_number(folder, at)) is not None
        )
        for kind in ("counter", "histogram", "summary"):
            path = folder / f"{kind}_{number}.db"
            kept = _keep_recent(_entries(path), {*backends, ""})
            _write(path, kept)
            for name, named in _named.items():
                named.update(entry.labels.get(name, OTHER) for entry in kept)
        _write(folder / f"gauge_livesum_{number}.db", [])
    except OSError as error:
        logger.warning("metrics: kept in memory, and lost at the end of this process (%s)", error)
        return
    for named in _named.values():
        named.discard(OTHER)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # noqa: TID251 the library reads nothing else
    _values.ValueClass = _values.MultiProcessValue(lambda: number)
    ProcessesCollector.folder, ProcessesCollector.own_lock = folder, own
    # Opens the files: later there may be no file descriptor left.
    job_seconds.labels(OTHER)
    for status in ("completed", "failed", "timeout", "cancelled"):
        jobs.labels(status)
    open_sockets.labels("group")


def _lock_number(folder: Path, number: int | str) -> filelock.BaseFileLock | None:
    """Return the lock on a number, None if a process holds it."""
    lock = filelock.FileLock(folder / f"{number}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock


def _entries(path: Path) -> list[_Entry]:
    """Return what a file has; nothing if it is damaged, as a power cut may leave it."""
    try:
        entries = [_Entry(*row[:3]) for row in _mmap.read_all_values_from_file(str(path))]
        return [entry for entry in entries if entry.labels is not None]
    except FileNotFoundError:
        return []
    except _DAMAGED as error:
        logger.warning("metrics: %s is damaged; its values begin at 0 (%r)", path, error)
        return []


def _keep_recent(entries: Iterable[_Entry], backends: Collection[str]) -> list[_Entry]:
    moment = time.time()
    dated = [entry._replace(unused_since=entry.unused_since or moment) for entry in entries]
    recent = {
        (name, entry.labels.get(name))
        for entry in dated
        for name in _named
        if moment - entry.unused_since < _UNUSED_SECONDS
    }
    recent |= {(name, value) for name in _named for value in (OTHER, None)}
    return [
        entry
        for entry in dated
        if all((name, entry.labels.get(name)) in recent for name in _named)
        and entry.labels.get("backend", "") in backends
    ]


def _write(path: Path, entries: Iterable[_Entry]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(bytes(_FILE_BYTES))
    made = _mmap(str(fresh))
    for entry in entries:
        made.write_value(*entry)
    made.close()
    fresh.replace(path)


class ProcessesCollector(Collector):
    """The sums over all processes that use this data folder, also of those that have ended."""

    folder: ClassVar[Path | None] = None  #: None: the values of this process are in memory.
    #: On the number of this process's files, until it ends.
    own_lock: ClassVar[filelock.BaseFileLock]

    def collect(self) -> Iterable[Metric]:
        if self.folder is None:
            return _in_memory.collect()
        files = sorted(path for path in self.folder.glob("*.db") if not self._is_left(path))
        try:
            return _merge([str(path) for path in files])
        except _DAMAGED:
            return _merge([str(path) for path in files if _entries(path)])

    def _is_left(self, path: Path) -> bool:
        """Return whether a file has the gauges of a process that was killed."""
        kind, *_, number = path.stem.split("_")
        if kind != "gauge" or self.own_lock.lock_file == str(path.parent / f"{number}.lock"):
            return False
        lock = _lock_number(path.parent, number)
        if lock is not None:
            lock.release()
        return lock is not None
