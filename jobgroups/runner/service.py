"""The runner: holds leases, runs a session for each of its backends, sends heartbeats, dispatches
work.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Set
from typing import Any, Final

from backends import queries as backend_queries
from jobgroups import metrics
from jobgroups.database.locks import FileLock, Lock
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken, LeaseTable, leases_to_acquire, release_count
from jobgroups.domain.states import AttemptState
from jobgroups.errors import LeaseLost
from jobgroups.events.hub import INSTALLATION, Hub
from jobgroups.queries import work
from jobgroups.queries.leases import has_free_lease, lease_table, leases_held
from jobgroups.runner.captures import Capturer
from jobgroups.runner.claims import Claims
from jobgroups.runner.completer import Completer
from jobgroups.runner.context import RunnerContext, RunnerSettings, desired_state
from jobgroups.runner.files import clean_loop
from jobgroups.runner.intervals import wait_set
from jobgroups.runner.pool import Pool
from jobgroups.runner.progress import ProgressWriter
from jobgroups.runner.session.session import BackendSession
from jobgroups.runner.sets import Tasks
from jobgroups.services import leases, runners
from jobgroups.services.timings import timings_store

logger = logging.getLogger(__name__)

#: Seconds in which an orderly end is to be stored; the process has a few more.
_SIGN_OFF_WITHIN: Final = 1.5
_SENT_WITHIN: Final = 0.8  #: And for what is being sent when a stop comes.
_HANDOVER_POLL: Final = 0.2  #: Seconds between two checks whether a backend can be handed over.
#: Seconds without a handover after a runner took more than its share of unclaimed backends.
_KEEPS_FOR: Final = 60.0
#: Seconds between two checks whether the queue of the pool is to be read again.
_POOL_POLL: Final = 1.0
#: Seconds: the longest pause before a session that failed is opened again.
_LONGEST_RESTART_PAUSE: Final = 30.0


#: By name, what runs until it is cancelled.
Loops = Mapping[str, Callable[[], Coroutine[Any, Any, None]]]


class RunnerReplaced(Exception):
    """Another process runs under this runner's name: this one must write nothing more."""


class RunnerService:
    """One runner, from its start to its orderly end or to an unexpected error.

    The caller holds the lock on the runner's name for as long as this runs. It closes
    ``background``, the threads of the loops whose jobs are rare. ``loops`` run beside the service's
    own while it is registered.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        hub: Hub,
        background: DatabaseThreads,
        loops: Loops,
        name_lock: Lock | None,
    ) -> None:
        self._settings = settings
        self._name_lock = name_lock
        self._loops = loops
        self._intervals = settings.intervals
        self._hub = hub
        self._instance = secrets.token_hex(6)
        self._work = asyncio.Event()
        self._look_at_backends = True  #: Whether the next dispatch also reconciles the sessions.
        self._sessions: dict[str, BackendSession] = {}
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        threads = settings.threads
        self._database = DatabaseThreads(
            threads=threads, name="runner-db", batch_commits=threads == 1
        )
        self._pulse = DatabaseThreads(threads=1, name="runner-pulse")
        self._background = background
        self._reporter = ProgressWriter(hub=hub, intervals=settings.intervals)
        self._capturer = Capturer(runner=settings.name, intervals=settings.intervals)
        self._no_rebalance_before = float("-inf")
        self._look_within = settings.intervals.poll

    def stop(self) -> None:
        """End soon: prompts go on at their backends and are taken up at the next start."""
        self._stopping.set()
        self._work.set()

    def notify(self, *, work_only: bool = False) -> None:
        """Dispatch now; reconcile the sessions too, unless only work is new."""
        self._look_at_backends |= not work_only
        self._work.set()

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Run until :meth:`stop`; raise ``RunnerReplaced`` if another process runs under this name.

        ``ready`` is called when the runner is registered as alive. After any other error, which was
        not expected in one of its loops, start another service.
        """
        self._loop = asyncio.get_running_loop()
        if self._settings.comfy_org_api_key:
            self._hub.keys[INSTALLATION] = self._settings.comfy_org_api_key
        try:
            if await self._register():
                if ready is not None:
                    ready()
                await self._hub.add_runner_listener(self.notify)
                await self._serve()
            await self._deregister()
        finally:
            self._hub.remove_runner_listener(self.notify)
            for threads in (self._database, self._pulse, self._reporter, self._capturer):
                # Off the loop: what is under way in a thread is waited for.
                await asyncio.shield(asyncio.to_thread(threads.close))

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            database, settings = self._database, self._settings
            writes = Tasks(tasks)
            context = RunnerContext(
                database=database,
                progress=self._reporter,
                pool=Pool(
                    database, give_up_s=settings.give_up_s, queued_limit_s=settings.queued_limit_s
                ),
                completer=Completer(database, writes),
                claims=Claims(database, writes),
                captures_due=self._capturer.due,
                settings=settings,
            )
            loops: Loops = {
                "beat": self._heartbeat_loop,
                "name": self._hold_name_lock_loop,
                "files": functools.partial(
                    clean_loop, self._background, self._intervals, settings.name, self._instance
                ),
                "progress": self._reporter.run,
                "work": functools.partial(self._dispatch_loop, tasks, context),
                **({"captures": self._capturer.run} if settings.captures else {}),
                **self._loops,
            }
            services = [
                tasks.create_task(loop(), name=f"runner: {name}") for name, loop in loops.items()
            ]
            await self._stopping.wait()
            await self._finish_sending()
            for task in [*services, *(session.task for session in self._sessions.values())]:
                task.cancel()
            # What is not stored yet, the next runner finds out at the backends.
            writes.cancel()

    async def _finish_sending(self) -> None:
        """Wait for the answers to prompts that are being sent; else they are uncertain for half a
        minute.
        """
        sessions = list(self._sessions.values())
        for session in sessions:
            session.start_handover()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SENT_WITHIN):
                while any(session.is_sending for session in sessions):  # noqa: ASYNC110 for some tens of milliseconds
                    await asyncio.sleep(0.02)

    async def _register(self) -> bool:
        """Register as alive, however long the database is away; False: a stop came before."""
        signing = self._pulse.run_with_retry(
            runners.runner_register,
            name=self._settings.name,
            instance=self._instance,
            version=self._settings.version,
        )
        async with asyncio.TaskGroup() as tasks:
            both = [
                tasks.create_task(signing, name="runner: sign on"),
                tasks.create_task(self._stopping.wait(), name="runner: stop"),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
        return not self._stopping.is_set()

    async def _deregister(self) -> None:
        try:
            async with asyncio.timeout(_SIGN_OFF_WITHIN):
                await self._pulse.run_with_retry(
                    runners.runner_deregister, name=self._settings.name, instance=self._instance
                )
        except TimeoutError:
            logger.warning("The end of this runner was not stored; its leases end by themselves.")

    async def _heartbeat_loop(self) -> None:
        """Renew heartbeat and leases, on a connection of its own: a slow write must not cost them."""
        beaten_at = time.monotonic()
        while True:
            renewed = await self._pulse.run_with_retry(self._renew)
            if renewed is None:
                raise RunnerReplaced(f"Another process runs under the name {self._settings.name}.")
            gone, beaten_at = time.monotonic() - beaten_at, time.monotonic()
            self._count_busy(min(gone, leases.LEASE_TTL.total_seconds()))
            if gone > leases.LEASE_TTL.total_seconds():
                logger.warning(
                    "This runner has renewed nothing for %.0f s: it was paused, its machine "
                    "slept, or"
                    " the database was away. What another runner took over meanwhile is that one's.",
                    gone,
                )
            self._take_renewal(*renewed)
            await asyncio.sleep(self._intervals.heartbeat)

    def _count_busy(self, seconds: float) -> None:
        # A sample of each heartbeat: exact for long prompts, and right on average for short ones.
        for backend_id, session in self._sessions.items():
            states = [machine.state for machine in session.attempts.machines]
            is_busy = AttemptState.RUNNING in states
            metrics.busy_seconds.labels(backend_id).inc(seconds if is_busy else 0.0)

    def _renew(self) -> tuple[float, set[FencingToken]] | None:
        """Return when the leases were renewed, and which were found ours then; None: the name is
        another process's.
        """
        # Each try by its own clock: one that waited for the database proves nothing of its wait.
        asked_at = time.monotonic()
        name = self._settings.name
        if not runners.runner_heartbeat(name=name, instance=self._instance):
            return None
        held = {FencingToken(*lease) for lease in leases_held(name)}
        if has_free_lease(name):
            self._loop.call_soon_threadsafe(self.notify)
        return asked_at, held

    def _take_renewal(self, asked_at: float, held: Set[FencingToken]) -> None:
        """Note which leases are ours; end the sessions of the others, since each of their writes is
        refused.
        """
        for backend_id, session in self._sessions.items():
            context = session.context
            if context.fence in held:
                context.renewed_at = max(context.renewed_at, asked_at)
            # One that was taken since may be missing in what was read before.
            elif session.opened_at < asked_at and not session.is_ending:
                logger.warning("%s: lease lost to another runner; closing the session.", backend_id)
                session.end()

    async def _hold_name_lock_loop(self) -> None:
        """Hold the lock on the name, which a restart of PostgreSQL takes away."""
        lock = self._name_lock
        if lock is None or isinstance(lock, FileLock):
            return
        was_held = True
        while True:
            is_held = await self._background.run_with_retry(lock.ensure_held)
            if was_held and not is_held:
                logger.warning(
                    "The lock on the name %s was lost, and is not free yet; it is taken again.",
                    self._settings.name,
                )
            was_held = is_held
            await asyncio.sleep(self._intervals.heartbeat)

    async def _dispatch_loop(self, tasks: asyncio.TaskGroup, context: RunnerContext) -> None:
        """Reconcile sessions and dispatch work on every notification, and every few seconds.

        What backends there are is read of all of them, by every runner: not for each group that
        comes.
        """
        due_at = float("-inf")
        while not self._stopping.is_set():
            self._work.clear()
            context.pool.is_stale = True
            looks = self._look_at_backends or time.monotonic() >= due_at
            if looks:
                self._look_at_backends = False
                await self._reconcile_sessions(tasks, context)
                await context.pool.read_backends()
                due_at = time.monotonic() + self._look_within
            await self._dispatch(context)
            if looks:
                await context.pool.end_overdue()
                await self._store_timings(context)
                await self._forget_keys(context)
            # A session that finds no job meanwhile makes a reading due.
            while (rest := min(due_at - time.monotonic(), context.pool.next_reading_in)) > 0:
                if await wait_set(self._work, within=min(rest, _POOL_POLL)):
                    break

    async def _dispatch(self, context: RunnerContext) -> None:
        """Tell the sessions what waits for them, and what is to be stopped."""
        waiting, stops = await context.database.run_with_retry(work.pending_work)
        await context.pool.refresh()
        if context.pool.schedule.snapshot.variants:
            free = {
                backend_id: session.attempts.prompt_count
                for backend_id, session in self._sessions.items()
                if session.claimer.may_claim
            }
            waiting |= context.pool.schedule.reserve(free, time.monotonic())
            idle = [
                backend_id
                for backend_id, prompts in free.items()
                if not prompts and backend_id not in waiting
            ]
            await context.pool.recall(idle)
        for backend_id, session in self._sessions.items():
            if backend_id in waiting:
                session.context.work_available.set()
            session.attempts.request_stop(stops.get(backend_id, ()))

    async def _store_timings(self, context: RunnerContext) -> None:
        samples = context.timings.copy()
        context.timings.clear()
        if samples:
            await context.database.run_with_retry(timings_store, samples)

    async def _forget_keys(self, context: RunnerContext) -> None:
        keys = self._hub.keys
        if held := keys.keys() - {INSTALLATION}:
            for group_id in await context.database.run_with_retry(work.groups_over, held):
                keys.pop(group_id, None)

    async def _reconcile_sessions(self, tasks: asyncio.TaskGroup, context: RunnerContext) -> None:
        """Open a session for each backend that needs one, end those of backends gone or moved."""
        rows = await context.database.run_with_retry(backend_queries.desired_backends)
        busy = await context.database.run_with_retry(work.backends_with_prompts)
        leases = await context.database.run_with_retry(lease_table, self._settings.name)
        wanted = {row["id"]: row for row in rows if row["enabled"] or row["id"] in busy}
        for backend_id, session in list(self._sessions.items()):
            row = wanted.get(backend_id)
            if session.task.done():
                await self._close(session, context)
            elif row is None or (row["url"], row["headers"]) != session.address:
                # Another is opened when this one is over: two sockets with one id silence both.
                session.end()
            else:
                session.context.set_desired_state(desired_state(row))
        given = {
            backend_id for backend_id, session in self._sessions.items() if session.releases_lease
        }
        for backend_id in leases_to_acquire(
            wanted.keys() - given, self._sessions.keys() - given, leases
        ):
            await self._open(wanted[backend_id], tasks, context)
            if backend_id in leases.unclaimed and leases.live_runners:
                self._no_rebalance_before = time.monotonic() + _KEEPS_FOR
        self._rebalance(wanted.keys(), leases)

    async def _open(
        self, row: dict[str, Any], tasks: asyncio.TaskGroup, context: RunnerContext
    ) -> None:
        asked_at = time.monotonic()
        fence = await context.database.run_with_retry(
            leases.lease_acquire, backend_id=row["id"], runner=self._settings.name
        )
        if fence is None:
            return
        self._sessions[row["id"]] = session = BackendSession(row, fence, asked_at, context)
        session.task = tasks.create_task(self._run_supervised(session), name=f"session {row['id']}")
        session.task.add_done_callback(lambda _: self.notify())

    async def _close(self, session: BackendSession, context: RunnerContext) -> None:
        fence = session.context.fence
        await context.database.run_with_retry(leases.lease_release, fence=fence)
        if session.releases_lease:
            self._hub.notify_runners()
        if session.is_ending:
            context.unavailable_since.pop(fence.backend_id, None)
        del self._sessions[fence.backend_id]

    def _rebalance(self, wanted: Set[str], leases: LeaseTable) -> None:
        """Have backends go to runners that have fewer, those without prompts of ours first."""
        staying = {
            backend_id: session
            for backend_id, session in self._sessions.items()
            if not session.is_ending
        }
        count = 0
        if time.monotonic() >= self._no_rebalance_before:
            count = release_count(wanted, staying.keys(), leases)
        ready = sorted(staying.values(), key=lambda session: len(session.attempts.drivers))
        for session in ready[count:]:
            session.cancel_handover()
        for session in ready[:count]:
            session.start_handover()
            if session.can_hand_over:
                logger.info("%s is handed over to another runner.", session.context.backend_id)
                session.end(releases_lease=True)
        is_pending = any(not session.is_ending for session in ready[:count])
        self._look_within = self._intervals.poll
        if leases.next_free_in is not None:
            self._look_within = min(self._look_within, max(leases.next_free_in, 0.0) + 0.05)
        if is_pending:
            self._look_within = _HANDOVER_POLL

    async def _run_supervised(self, session: BackendSession) -> None:
        """Run a session; what ends it ends no other one. It is opened again, with a new epoch."""
        failure: Exception | None = None
        try:
            await session.run()
        except* LeaseLost as lost:
            _give_up_lease(session, lost.exceptions[0])
        except* Exception as errors:
            logger.exception(
                "%s: unexpected error in the session; opening it again", session.context.backend_id
            )
            failure = innermost(errors)
        if failure is not None:
            try:
                await session.take_failure(failure)
            except LeaseLost as lost:
                _give_up_lease(session, lost)
        # Rarer with time: one that always fails would fill the log.
        away = session.context.availability.unavailable_for() or 0.0
        pause = min(max(self._intervals.restart_pause, away / 10), _LONGEST_RESTART_PAUSE)
        await asyncio.sleep(pause)


def _give_up_lease(session: BackendSession, lost: Exception) -> None:
    logger.warning("%s", lost)
    # What another runner sees of the backend meanwhile is not known here.
    session.context.availability.mark_available()


def innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
