"""A fake Director over real sockets, in a thread; it has faults on request."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from tests.harness.loop_thread import LoopThread

NOW = "2026-02-01T07:00:00.000Z"
LISTED = 1_000  #: Jobs of a group above which they are on pages only.


def child(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "job_id": f"j_{number:012x}",
        "backend_id": f"gpu{number}_8188",
        "seed": 41 + number,
        "status": "queued",
        "progress": 0.0,
        "outputs": None,
        "completed_at": None,
        "attempts": 1,
        **fields,
    }


def _named(job: dict[str, Any]) -> dict[str, Any]:
    return {name: job[name] for name in ("job_id", "backend_id", "seed")}


@dataclass
class StoredGroup:
    body: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    #: Held while the log grows, and while a socket is added that has all events so far.
    lock: threading.Lock = field(default_factory=threading.Lock)


class FakeDirector(LoopThread):
    """The server, a context manager. Its public methods may be called from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, StoredGroup] = {}
        self.keys: dict[str, tuple[bytes, str]] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connects: list[str] = []
        self.files: dict[str, bytes] = {}
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.lose: dict[tuple[str, str], int] = defaultdict(int)
        #: How many requests get 503 with this code, to be sent again at once.
        self.unavailable: dict[tuple[str, str], tuple[int, str]] = {}
        self.break_files = 0
        self.refuse_sockets: int | None = None
        self.skip: set[int] = set()
        self.refuses_waits = False
        #: Seconds after which a proxy cuts a request.
        self.cuts_after = math.inf
        self.waiting = 0
        self._ids = itertools.count(1)
        self._changed = threading.Condition()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.call(self.close())

    def restart(self) -> None:
        self.call(self.open())

    async def open(self) -> None:
        app = web.Application(middlewares=[self._note])
        app.router.add_route("GET", "/ws/job-groups/{id}", self._socket)
        app.router.add_route("POST", "/api/job-group", self._submit)
        app.router.add_route("GET", "/api/job-groups", self._list)
        app.router.add_route("*", "/api/job-groups/{id}", self._group)
        app.router.add_route("GET", "/api/job-groups/{id}/sheet.webp", self._sheet)
        app.router.add_route("GET", "/view", self._view)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        for socket in [one for group in self.groups.values() for one in group.sockets]:
            await socket.close(code=4012)
        await self._runner.cleanup()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is checked after each request."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=60)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def group(self, children: int = 1, **fields: Any) -> str:
        group_id = f"jg_{next(self._ids):012x}"
        body = {
            "job_group_id": group_id,
            "status": "running",
            "child_jobs": [child(n + 1) for n in range(children)],
            "total_count": children,
            "created_at": NOW,
            "completed_at": None,
            "metadata": {},
            "warnings": [],
            "run": 1,
            **dict.fromkeys(["completed_count", "failed_count", "seq"], 0),
        }
        self.groups[group_id] = StoredGroup({**body, **fields})
        self.record(group_id, "group_created", job_group_id=group_id)
        return group_id

    def record(self, group_id: str, kind: str, **fields: Any) -> None:
        """Store the next state event, and send it to all sockets."""
        group = self.groups[group_id]
        with group.lock:
            seq = group.body["seq"] + 1
            frame = {"type": kind, "seq": seq, "run": group.body["run"], **fields}
            group.body["seq"] = seq
            group.log.append(frame)
        if frame["seq"] not in self.skip:
            self.send(group_id, frame)

    def start_child(self, group_id: str) -> None:
        self.record(group_id, "child_started", **_named(child(1)), attempt=1, started_at=NOW)

    def progress(self, group_id: str, percent: float) -> None:
        steps = {"current_step": "KSampler", "steps_completed": 13, "steps_total": 20}
        frame = {"type": "child_progress", **_named(child(1)), "progress": percent, **steps}
        self.send(group_id, frame)

    def finish(self, group_id: str) -> None:
        body = self.groups[group_id].body
        body.update(status="completed", completed_at=NOW)
        ids = [one["job_id"] for one in body["child_jobs"]]
        results = [{"job_id": one, "status": "completed", "outputs": {}} for one in ids]
        counts = {"total": len(ids), "succeeded": len(ids), "failed": 0}
        self.record(group_id, "group_complete", job_group_id=group_id, **counts, results=results)

    def reopen(self, group_id: str) -> None:
        body = self.groups[group_id].body
        body.update(status="running", completed_at=None, run=body["run"] + 1)
        job_ids = [one["job_id"] for one in body["child_jobs"]]
        self.record(group_id, "group_reopened", job_group_id=group_id, job_ids=job_ids)

    def send(self, group_id: str, frame: dict[str, Any]) -> None:
        for socket in set(self.groups[group_id].sockets):
            self.call(socket.send_str(json.dumps(frame)))

    def close_sockets(self, group_id: str, code: int) -> None:
        for socket in set(self.groups[group_id].sockets):
            self.call(socket.close(code=code))

    def tear(self, group_id: str) -> None:
        """Abort all sockets of a group: no close frame, no FIN."""
        for socket in set(self.groups[group_id].sockets):
            transport = socket._req.transport
            self.loop.call_soon_threadsafe(transport.abort)

    def listeners(self, group_id: str) -> int:
        return len(self.groups[group_id].sockets)

    def sent(self, method: str, path: str) -> list[tuple[dict[str, str], bytes]]:
        return [(h, b) for m, p, h, b in self.requests if (m, p) == (method, path)]

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.path_qs, headers, body))
        self._notify()
        key = (request.method, request.path)
        left, code = self.unavailable.get(key, (0, ""))
        if left:
            self.unavailable[key] = left - 1, code
            body_of_error = {"detail": "Not now.", "code": code}
            status = 429 if code == "too_many_requests" else 503
            response: web.StreamResponse = web.json_response(
                body_of_error, status=status, headers={"Retry-After": "0"}
            )
        elif key in self.answers:
            status, answer = self.answers[key]
            response = (
                web.Response(status=status, text=answer, content_type="text/html")
                if isinstance(answer, str)
                else web.json_response(answer, status=status)
            )
        else:
            response = await handler(request)
        if self.lose[key] > 0:
            self.lose[key] -= 1
            request.transport.abort()
        return response

    async def _submit(self, request: web.Request) -> web.Response:
        raw = await request.read()
        key = request.headers["Idempotency-Key"]
        if replayed := key in self.keys:
            seen, group_id = self.keys[key]
            if seen != raw:
                conflict = {"detail": "Used before.", "code": "idempotency_conflict"}
                return web.json_response(conflict, status=409)
        else:
            sent = json.loads(raw)
            count = sent.get("count")
            backends = sent["backend_ids"] if count is None else [None] * count
            jobs = [child(number, backend_id=one) for number, one in enumerate(backends, 1)]
            group_id = self.group(len(jobs), child_jobs=jobs)
            self.keys[key] = (raw, group_id)
        headers = {"Idempotency-Replayed": "true"} if replayed else {}
        return web.json_response(
            self.shown(self.groups[group_id].body, {}), status=201, headers=headers
        )

    async def _list(self, request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", 2))
        start = int(request.query.get("cursor", 0))
        rows = list(reversed(self.groups.values()))
        rest = [{k: v for k, v in g.body.items() if k != "child_jobs"} for g in rows]
        cursor = start + limit
        link = f"http://other.invalid/api/job-groups?cursor={cursor}&limit={limit}"
        more = link if cursor < len(rest) else None
        page = {"results": rest[start:cursor], "next": more, "previous": None}
        return web.json_response(page)

    async def _group(self, request: web.Request) -> web.Response:
        group_id = request.match_info["id"]
        if group_id not in self.groups:
            body = {"detail": f"Job group {group_id} not found", "code": "group_not_found"}
            return web.json_response(body, status=404)
        query = dict(request.query)
        if "wait" in query and self.refuses_waits:
            return web.json_response(
                {"detail": "Too many.", "code": "too_many_waiting"}, status=429
            )
        if "since" in query and not await self._has_moved(
            request, self.groups[group_id].body, query
        ):
            return web.Response(status=304)
        return web.json_response(self.shown(self.groups[group_id].body, query))

    async def _has_moved(
        self, request: web.Request, body: dict[str, Any], query: dict[str, str]
    ) -> bool:
        since, began = int(query["since"]), time.monotonic()
        self.waiting += "wait" in query
        self._notify()
        try:
            while body["seq"] == since and time.monotonic() < began + int(query.get("wait", 0)):
                if time.monotonic() >= began + self.cuts_after:
                    request.transport.abort()
                await asyncio.sleep(0.01)
        finally:
            self.waiting -= "wait" in query
        return body["seq"] != since

    @staticmethod
    def shown(body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        jobs, link = body["child_jobs"], "http://other.invalid/?limit=200"
        if query.get("children") == "0":
            return {**body, "child_jobs": []}
        if "limit" in query:
            first = int(query.get("children_after", -1)) + 1
            last = first + int(query["limit"])
            following = f"{link}&children_after={last - 1}" if last < len(jobs) else None
            return {**body, "child_jobs": jobs[first:last], "children_next": following}
        return {**body, "child_jobs": [], "children_next": link} if len(jobs) > LISTED else body

    async def _sheet(self, request: web.Request) -> web.Response:
        return web.Response(text=request.query_string, headers={"X-Sheet-Pages": "2"})

    async def _view(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.query["filename"])
        if content is None:
            return web.Response(status=404)
        if self.break_files > 0:
            self.break_files -= 1
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            request.transport.abort()
            return response
        return web.Response(body=content, content_type="image/png")

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.connects.append(request.path_qs)
        if self.refuse_sockets is not None:
            body = {"detail": "No sockets here.", "code": "refused"}
            return web.json_response(body, status=self.refuse_sockets)
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        group_id = request.match_info["id"]
        group = self.groups.get(group_id)
        if group is None:
            detail = f"Job group {group_id} not found"
            error = {"type": "error", "code": "group_not_found", "detail": detail}
            await socket.send_str(json.dumps(error))
            await socket.close(code=4404)
            return socket
        await self._catch_up(socket, group, request.query.get("since"))
        self._notify()
        try:
            while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED):
                pass
        finally:
            group.sockets.discard(socket)
            self._notify()
            await socket.close(code=WSCloseCode.OK)
        return socket

    async def _catch_up(
        self, socket: web.WebSocketResponse, group: StoredGroup, since: str | None
    ) -> None:
        with group.lock:
            last = group.body["seq"]
            if since is not None and 0 <= int(since) <= last:
                sent, state = int(since), None
            else:
                sent = last - 1 if group.body["completed_at"] else last
                state = {**self.shown(group.body, {}), "type": "initial_state", "seq": sent}
        if state is not None:
            await socket.send_str(json.dumps(state))
        while True:
            with group.lock:
                missed = group.log[sent:]
                if not missed:
                    group.sockets.add(socket)
                    return
            sent += len(missed)
            for frame in missed:
                if frame["seq"] not in self.skip:
                    await socket.send_str(json.dumps(frame))
