"""What one of everything costs, and where each figure comes from: what ``tests.bench.scaling`` reckons with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

#: The measured ones, as ``python -m tests.bench.scaling --measure`` left them.
FILE: Final = Path(__file__).with_name("scaling_units.json")
_FARM: Final = "farm"
_CALLS: Final = "calls"
_CODE: Final = "code"
#: Where a figure comes from.
SOURCES: Final = {
    _FARM: "the Director at work, 20 and 200 simulated backends",
    _CALLS: "its services, called one after the other",
    _CODE: "the code",
}


def _measured(what: str, source: str = _FARM) -> Any:
    return field(metadata={"what": what, "source": source})


def _fixed(value: float, where: str) -> Any:
    return field(default=value, metadata={"what": where, "source": _CODE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Unit costs; names end with their unit: ``ms`` and ``us`` are CPU time where nothing else is said."""

    # --- a child, from its submission to its stored end, with the frames of a render of three steps
    child_rows: float = _measured("rows of a child: itself, an attempt, two events")
    child_bytes: float = _measured("bytes stored for a child, indexes included")
    child_wal: float = _measured("bytes that PostgreSQL logs for a child")
    child_statements: float = _measured("statements of a child")
    child_commits: float = _measured("transactions of a child")
    child_messages: float = _measured("messages through Redis for a child")
    child_frames: float = _measured("frames that ComfyUI sends for a child")
    child_runner_ms: float = _measured("runner, for a child")
    child_web_ms: float = _measured("web, for a child")
    child_postgres_ms: float = _measured("PostgreSQL, for a child")
    # --- a group, without its children
    group_rows: float = _measured("rows of a group: itself, a label, two events")
    group_bytes: float = _measured("bytes stored for a group, a workflow of 0.7 KiB among them")
    group_wal: float = _measured("bytes that PostgreSQL logs for a group")
    group_statements: float = _measured("statements of a group")
    group_commits: float = _measured("transactions of a group")
    group_messages: float = _measured("messages through Redis for a group")
    group_runner_ms: float = _measured("runner, for a group")
    group_web_ms: float = _measured("web, for a group")
    group_postgres_ms: float = _measured("PostgreSQL, for a group")
    # --- a backend, in a second, whether it renders or not
    backend_statements: float = _measured("statements for a backend and second")
    backend_commits: float = _measured("transactions for a backend and second")
    backend_wal: float = _measured("bytes that PostgreSQL logs for a backend and second")
    backend_runner_ms: float = _measured("runner, for a backend and second")
    backend_postgres_ms: float = _measured("PostgreSQL, for a backend and second")
    backend_files: float = _measured("open files of a runner for an idle backend: a socket, a request")
    backend_kib: float = _measured("memory of a runner for a backend, KiB")
    # --- a runner without backends, in a second
    runner_statements: float = _measured("statements of a runner and a web, for a second")
    runner_own_ms: float = _measured("runner, for a second")
    runner_postgres_ms: float = _measured("PostgreSQL, for a runner, a web and a second")
    # --- a frame, a message, a question
    frame_runner_us: float = _measured("runner, to read a frame")
    message_runner_us: float = _measured("runner, to send a message of progress, and to have it stored")
    progress_postgres_us: float = _measured("PostgreSQL, to store a child's progress")
    message_redis_us: float = _measured("Redis, for a message")
    message_web_us: float = _measured("web, for a message of a group that it watches")
    message_watcher_us: float = _measured("web, for a message and socket")
    status_us_per_child: float = _measured("web, to tell how a group stands, for each of its children")
    # --- a round of a runner: what it reads of the whole farm whenever somebody rings for work
    round_ms: float = _measured("runner, for a round over 20 backends", _CALLS)
    round_us_per_backend: float = _measured("runner, for a round and each further backend", _CALLS)
    round_postgres_us_per_backend: float = _measured("PostgreSQL, the same", _CALLS)
    # --- transactions: Python and PostgreSQL
    claim_python_ms: float = _measured("runner, a claim", _CALLS)
    claim_postgres_ms: float = _measured("PostgreSQL, a claim", _CALLS)
    accepted_python_ms: float = _measured("runner, an acceptance", _CALLS)
    accepted_postgres_ms: float = _measured("PostgreSQL, an acceptance", _CALLS)
    started_python_ms: float = _measured("runner, a start", _CALLS)
    started_postgres_ms: float = _measured("PostgreSQL, a start", _CALLS)
    reported_python_ms: float = _measured("runner, a node's outputs", _CALLS)
    reported_postgres_ms: float = _measured("PostgreSQL, a node's outputs", _CALLS)
    ended_python_ms: float = _measured("runner, an end", _CALLS)
    ended_postgres_ms: float = _measured("PostgreSQL, an end", _CALLS)
    commit_wait_ms: float = _measured("wall clock of a transaction that is nobody's CPU time", _CALLS)
    group_lock_us_per_child: float = _measured(
        "PostgreSQL, longer for a start or an end with each child of the group", _CALLS
    )
    # --- what the code fixes
    runner_threads: float = _fixed(4, "`jobgroups/runner/supervisor.py`")
    runner_connections: float = _fixed(
        9, "4 threads, pulse, name and its lock, progress, hub: `jobgroups/runner/service.py`"
    )
    web_connections: float = _fixed(20, "the pool's `max_size`: `director/settings.py`")
    progress_per_s: float = _fixed(10, "1 / `progress_gap`: `jobgroups/runner/intervals.py`")
    flushes_per_s: float = _fixed(4, "1 / `flush`: `jobgroups/runner/intervals.py`")


_STORED: Final[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
UNITS: Final = Units(**_STORED["units"])
#: When and on what they were measured.
MACHINE: Final[str] = _STORED["machine"]
#: What the farm of 200 backends × 1.5 s did in the same run, and what became of many frames.
SUSTAINED: Final[dict[str, float]] = _STORED["sustained"]


def store(machine: str, units: Mapping[str, float], sustained: Mapping[str, float]) -> None:
    """Keep what was measured, three digits of each."""
    known = {one.name for one in fields(Units)}
    stored = {
        "machine": machine,
        "units": {name: _short(value) for name, value in units.items() if name in known},
        "sustained": {name: _short(value) for name, value in sustained.items()},
    }
    FILE.write_text(json.dumps(stored, indent=4) + "\n", encoding="utf-8")


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def described() -> list[tuple[str, float, str, str]]:
    """Return name, value, meaning and source of each unit cost."""
    return [(one.name, getattr(UNITS, one.name), one.metadata["what"], one.metadata["source"]) for one in fields(Units)]
