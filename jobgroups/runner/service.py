"""The runner: holds leases, keeps a session for each of its backends, beats, and passes on the bell."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from backends import selectors as backend_selectors
from jobgroups import selectors
from jobgroups.errors import LeaseLost
from jobgroups.hub import Hub
from jobgroups.runner.db import Database
from jobgroups.runner.leases import LeaseClock
from jobgroups.runner.reporting import Reporter
from jobgroups.runner.session import BackendAddress, BackendSession, Surroundings, address_of
from jobgroups.runner.timing import Timing
from jobgroups.services import runners
from jobgroups.services.writing import Fence

logger = logging.getLogger(__name__)


class RunnerReplaced(Exception):
    """Another process runs under this runner's name: this one must write nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """What a runner is started with."""

    name: str
    version: str
    depth: int
    give_up_s: float
    queued_limit_s: int
    max_answer_bytes: int
    #: Database threads for what must not be lost: 1 on SQLite.
    threads: int
    timing: Timing = field(default_factory=Timing)


@dataclass(slots=True)
class _Held:
    address: BackendAddress
    session: BackendSession
    task: asyncio.Task[None]
    ending: bool = False


class RunnerService:
    """One runner, from its start to its orderly end or to the defect that ends it.

    The caller holds the lock on the runner's name for as long as this runs.
    """

    def __init__(self, settings: RunnerSettings, hub: Hub) -> None:
        self._settings = settings
        self._timing = settings.timing
        self._hub = hub
        self._instance = secrets.token_hex(6)
        self._work = asyncio.Event()
        self._held: dict[str, _Held] = {}
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self.lease_clock = LeaseClock()

    def stop(self) -> None:
        """End soon: prompts go on at their backends and are taken up at the next start."""
        self._stopping.set()
        self._work.set()

    def wake(self) -> None:
        """Look for work now."""
        self._work.set()

    async def wait_ready(self) -> None:
        """Wait until the runner is registered as alive."""
        await self._ready.wait()

    async def run(self) -> None:
        """Run until :meth:`stop`.

        Raises:
            RunnerReplaced: another process runs under this name.
            Exception: a defect in one of its service loops; start another service.
        """
        database = Database(threads=self._settings.threads, name="runner-db")
        pulse = Database(threads=1, name="runner-pulse")
        reporter = Reporter(hub=self._hub, timing=self._timing)
        try:
            await pulse.store(
                runners.runner_started,
                name=self._settings.name,
                instance=self._instance,
                version=self._settings.version,
            )
            self._ready.set()
            await self._hub.listen_as_runner(self._work.set)
            await self._serve(database, pulse, reporter)
            await asyncio.wait_for(self._sign_off(pulse), timeout=2.0)
        finally:
            self._hub.stop_listening_as_runner(self._work.set)
            for bridge in (database, pulse, reporter):
                # Off the loop: what is under way in a thread is waited for.
                await asyncio.shield(asyncio.to_thread(bridge.close))

    async def _serve(self, database: Database, pulse: Database, reporter: Reporter) -> None:
        around = Surroundings(
            database=database,
            reporter=reporter,
            timing=self._timing,
            lease_clock=self.lease_clock,
            instance=self._instance,
            depth=self._settings.depth,
            give_up_s=self._settings.give_up_s,
            queued_limit_s=self._settings.queued_limit_s,
            max_answer_bytes=self._settings.max_answer_bytes,
        )
        async with asyncio.TaskGroup() as tasks:
            services = [
                tasks.create_task(self._beat(pulse), name="runner: beat"),
                tasks.create_task(reporter.run(), name="runner: progress"),
                tasks.create_task(self._look_for_work(tasks, around), name="runner: work"),
            ]
            await self._stopping.wait()
            for task in [*services, *(held.task for held in self._held.values())]:
                task.cancel()

    async def _sign_off(self, pulse: Database) -> None:
        await pulse.store(runners.runner_stopped, name=self._settings.name, instance=self._instance)

    async def _beat(self, pulse: Database) -> None:
        """Renew heartbeat and leases, on a connection of its own: a slow write must not cost them."""
        while True:
            if not await pulse.store(self._renew):
                name = self._settings.name
                raise RunnerReplaced(f"Another process runs under the name {name}.")
            await asyncio.sleep(self._timing.beat)

    def _renew(self) -> bool:
        # Each try by its own clock: one that waited for the database proves nothing of its wait.
        asked_at = time.monotonic()
        name = self._settings.name
        renewed = runners.runner_beat(name=name, instance=self._instance)
        if renewed:
            held = (Fence(*lease) for lease in selectors.leases_held(name))
            self.lease_clock.renewed(held, asked_at)
        return renewed

    async def _look_for_work(self, tasks: asyncio.TaskGroup, around: Surroundings) -> None:
        """On a ring, and every few seconds without one: backends, waiting children, owed stops."""
        while not self._stopping.is_set():
            self._work.clear()
            await self._match_backends(tasks, around)
            await self._pass_on(around.database)
            try:
                async with asyncio.timeout(self._timing.safety_poll):
                    await self._work.wait()
            except TimeoutError:
                pass

    async def _pass_on(self, database: Database) -> None:
        waiting, stops = await database.store(selectors.work_for_sessions)
        for backend_id, held in self._held.items():
            if backend_id in waiting:
                held.session.wake()
            held.session.stop_attempts(stops.get(backend_id, ()))

    async def _match_backends(self, tasks: asyncio.TaskGroup, around: Surroundings) -> None:
        """Open a session for each backend that needs one, end those of backends gone or moved."""
        rows = await around.database.store(backend_selectors.backend_addresses)
        busy = await around.database.store(selectors.backends_with_prompts)
        wanted = {row["id"]: row for row in rows if row["enabled"] or row["id"] in busy}
        for backend_id, held in list(self._held.items()):
            row = wanted.get(backend_id)
            if held.task.done():
                del self._held[backend_id]
            elif row is None or address_of(row) != held.address:
                # Another is opened when this one is over: two sockets with one id silence both.
                if not held.ending:
                    held.ending = True
                    held.task.cancel()
            else:
                held.session.set_enabled(row["enabled"])
        for backend_id in wanted.keys() - self._held.keys():
            await self._open(wanted[backend_id], tasks, around)

    async def _open(
        self, row: dict[str, Any], tasks: asyncio.TaskGroup, around: Surroundings
    ) -> None:
        asked_at = time.monotonic()
        fence = await around.database.store(
            runners.lease_take, backend_id=row["id"], runner=self._settings.name
        )
        if fence is None:
            return
        self.lease_clock.taken(fence, asked_at)
        address = address_of(row)
        session = BackendSession(address, fence, around, enabled=row["enabled"])
        task = tasks.create_task(self._bounded(session), name=f"session {row['id']}")
        task.add_done_callback(lambda _: self._work.set())
        self._held[row["id"]] = _Held(address, session, task)

    async def _bounded(self, session: BackendSession) -> None:
        """Run a session; what ends it ends no other one. It is opened again, with a new epoch."""
        try:
            await session.run()
        except* LeaseLost as lost:
            logger.warning("%s", lost.exceptions[0])
        except* Exception:
            logger.exception(
                "The session of %s met a defect; it is opened again.", session.backend_id
            )
        finally:
            self.lease_clock.dropped(session.fence)
        await asyncio.sleep(self._timing.restart_pause)
