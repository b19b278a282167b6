"""What nothing of ours can be faster than: the server alone, the disk alone, the interpreter alone."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness.processes import ROOT

#: What a status of three children has, about.
_BODY = json.dumps({"filler": "x" * 2_400}).encode()


async def _answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"Content-Type", b"application/json"), (b"Content-Length", str(len(_BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


def serve(port: int) -> None:
    """Serve with daphne an application that only answers."""
    run(_answer, port)


def run(application: Any, port: int) -> None:
    """Serve an application with daphne, bare."""
    from daphne.server import Server  # importing daphne installs a reactor

    Server(application=application, endpoints=[f"tcp:port={port}:interface=127.0.0.1"], server_name="Director").run()


@contextmanager
def empty_server() -> Iterator[str]:
    """Run that server in a process of its own, and wait until it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    code = f"from tests.bench.floors import serve; serve({port})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int, within: float = 20.0) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + within
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end, "the empty server does not listen"
            time.sleep(0.05)
        else:
            return


def commits(folder: Path, count: int = 200) -> list[float]:
    """Return the seconds that commits of some small rows take, durable as a group's are."""
    rows = [("x" * 600,) for _ in range(5)]
    taken: list[float] = []
    with sqlite3.connect(folder / "floor.sqlite3", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE rows (text TEXT)")
        for _ in range(count):
            began = time.perf_counter()
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO rows VALUES (?)", rows)
            database.execute("COMMIT")
            taken.append(time.perf_counter() - began)
    return taken
