"""The audit log: what happened to each prompt. It survives restarts of the simulator.

Each entry is one JSON line, appended with one `write` to a file opened with O_APPEND, so several
servers may share a file and a killed process loses no entry. An entry is written before the HTTP
answer or the frame with the same content is sent.

Kinds: `accepted`, `refused`, `started`, `ended` (with `outcome`), `interrupted` (requested, with
`hit`), `cancelled` (requested), `deleted`, `lost` (accepted, and forgotten by a restart or a
crash), `restarted`, `crashed`, `freed` (POST /free, with its `body`), `fault` (an injected fault
took effect).
"""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

MARK_LIMIT = 4096  # bytes of extra_data kept in an entry


class AuditLog:
    def __init__(self, name: str, path: Path | None = None) -> None:
        self.name = name
        self.entries: list[Entry] = []
        # Starts per prompt_id, over all starts of the server.
        self.executions: Counter[str] = Counter()
        self._waiting: set[asyncio.Event] = set()
        self._file: int | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = [entry for entry in read_audit_log(path) if entry.get("backend") == self.name]
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self.executions.update(e["prompt_id"] for e in earlier if e["kind"] == "started")
        for entry in unfinished(earlier):
            self.write("lost", prompt_id=entry["prompt_id"], client_id=entry.get("client_id"))

    def write(self, kind: str, **facts: Any) -> Entry:
        """Append an entry; returns once it's handed to the operating system."""
        entry: Entry = {"kind": kind, "time": time.time(), "backend": self.name, **facts}
        self.entries.append(entry)
        if self._file is not None:
            os.write(self._file, json.dumps(entry, default=str).encode() + b"\n")
        for event in self._waiting:
            event.set()
        return entry

    def started(self, prompt_id: str, **facts: Any) -> None:
        self.executions[prompt_id] += 1
        count = self.executions[prompt_id]
        self.write("started", prompt_id=prompt_id, execution=count, **facts)

    def find(self, kind: str, since: int = 0, **match: Any) -> Entry | None:
        """The first entry of that kind, from index `since`, whose facts equal `match`."""
        wanted = {"kind": kind, **match}.items()
        matching = (e for e in self.entries[since:] if all(e.get(k) == v for k, v in wanted))
        return next(matching, None)

    async def wait_for(
        self, kind: str, *, timeout: float = 60.0, since: int = 0, **match: Any
    ) -> Entry:
        """Wait until `find` finds one (also one written before the call).

        Raises TimeoutError, naming what was waited for.
        """
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(timeout):
                while (entry := self.find(kind, since, **match)) is None:
                    await event.wait()
                    event.clear()
            return entry
        except TimeoutError:
            seen = [(e["kind"], e.get("prompt_id")) for e in self.entries[-12:]]
            message = f"{self.name}: no {kind!r} with {match} in {timeout} s; last seen: {seen}"
            raise TimeoutError(message) from None
        finally:
            self._waiting.discard(event)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_audit_log(path: Path) -> list[Entry]:
    """Return the entries of a log file, oldest first; a line cut off by a full disk is skipped."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def unfinished(entries: list[Entry]) -> list[Entry]:
    """The `accepted` entries without an end: each end closes the oldest one of its prompt_id."""
    open_entries: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry["kind"] == "accepted":
            open_entries.setdefault(entry["prompt_id"], []).append(entry)
        elif entry["kind"] in ("ended", "deleted", "lost") and open_entries.get(entry["prompt_id"]):
            open_entries[entry["prompt_id"]].pop(0)
    return [entry for left in open_entries.values() for entry in left]


def redact_extra_data(extra_data: Any) -> Any:
    """Return `extra_data` as it is logged: without the workflow, and capped."""
    if isinstance(extra_data, dict):
        extra_data = {k: v for k, v in extra_data.items() if k != "extra_pnginfo"}
    text = json.dumps(extra_data, default=str)
    return extra_data if len(text) <= MARK_LIMIT else {"truncated": text[:MARK_LIMIT]}
