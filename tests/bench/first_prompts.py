"""How long from a submission until the third of its prompts is at its backend, each intent stored first.

The floor is a bare server: the same daphne, which takes the same submission and posts three prompts to
the same backends with the same library, and stores nothing.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import floors
from tests.bench.figures import Figure, p50
from tests.bench.gpus import Gpus, group_of, simulated
from tests.bench.submission import Client
from tests.bench.wire import Connection
from tests.harness.processes import ROOT, serving
from tests.harness.servers import free_port, is_there, postgres

#: Seconds between two submissions: everything is idle again.
_PAUSE = 0.2


def measure(folder: Path, *, rounds: int = 40) -> list[Figure]:
    """Measure on SQLite, then on PostgreSQL where its programs are installed."""
    with simulated(folder, 3) as gpus:
        bare = _bare(gpus, rounds)
        rows = [_figure("SQLite", _ours(_made(folder / "sqlite"), gpus, rounds), bare, 10, 5)]
        if is_there("initdb"):
            with postgres(durable=True) as server:
                url = {"DIRECTOR_DATABASE_URL": server.create("bench")}
                ours = _ours(_made(folder / "postgres"), gpus, rounds, url)
            rows.append(_figure("PostgreSQL", ours, bare, 14, 8))
    return rows


def _figure(where: str, ours: list[float], bare: list[float], gate: int, goal: int) -> Figure:
    return Figure(
        name=f"POST to third prompt, {where}, p50",
        value=p50(ours),
        floor=p50(bare),
        of_floor=True,
        gate=gate,
        goal=goal,
    )


def _ours(folder: Path, gpus: Gpus, rounds: int, environment: dict[str, str] | None = None) -> list[float]:
    sent: dict[str, float] = {}
    with serving(folder, gpus.urls, environment=environment) as served, Client(served.url) as client:
        for _ in range(rounds):
            submission = client.submission(gpus.ids)
            began = time.time()
            _, group_id = client.send(submission)
            sent[group_id] = began
            client.wait(group_id, every=_PAUSE)
    return _until_third(gpus, sent)


def _until_third(gpus: Gpus, sent: dict[str, float]) -> list[float]:
    """Return the seconds until the last prompt of each group was accepted. By the wall clock."""
    third: dict[str, float] = {}
    for entry in gpus.seen():
        if entry["kind"] == "accepted" and (group := group_of(entry)) in sent:
            third[group] = entry["time"]
    return [third[group] - began for group, began in sent.items()]


def _bare(gpus: Gpus, rounds: int) -> list[float]:
    sent: dict[str, float] = {}
    with _passing_on(gpus.urls) as url, Client(url) as client, Connection(url) as connection:
        submission = client.submission(gpus.ids)
        for _ in range(rounds):
            began = time.time()
            _, answer = connection.ask(submission, 201)
            sent[json.loads(answer)["job_group_id"]] = began
            time.sleep(_PAUSE)
    return _until_third(gpus, sent)


@contextmanager
def _passing_on(backends: list[str]) -> Iterator[str]:
    port = free_port()
    code = f"from tests.bench.first_prompts import pass_on; pass_on({port}, {backends!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        floors.wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def pass_on(port: int, backends: list[str]) -> None:
    """Serve with daphne an application that posts what it gets to each of the backends."""
    import httpx

    client = httpx.AsyncClient(trust_env=False)
    count = 0

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal count
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        count += 1
        group = f"bare-{count}"
        asked = json.loads(body)
        async with asyncio.TaskGroup() as tasks:
            for number, backend in enumerate(backends):
                post = _post(client, backend, asked["workflow_json"], group, 3 * count + number)
                tasks.create_task(post)
        answer = json.dumps({"job_group_id": group}).encode()
        length = (b"Content-Length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 201, "headers": [length]})
        await send({"type": "http.response.body", "body": answer})

    floors.run(application, port)


async def _post(client: Any, backend: str, workflow: dict[str, Any], group: str, job: int) -> None:
    sampler = workflow["3"] | {"inputs": workflow["3"]["inputs"] | {"seed": job}}
    body = {
        "prompt": workflow | {"3": sampler},
        "prompt_id": f"{group}-{job}",
        "client_id": "bare",
        "extra_data": {"director": {"group": group, "job": job}},
    }
    (await client.post(f"{backend}/prompt", json=body)).raise_for_status()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
