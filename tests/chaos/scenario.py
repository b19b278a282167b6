"""One run: groups are submitted, watched and cancelled while processes are killed, paused and cut
off.
"""

import datetime as dt
import itertools
import os
import random
import signal
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

import httpx

from tests.chaos import checks
from tests.chaos.farm import Farm, SqliteFarm, farm
from tests.harness.graphs import picture
from tests.harness.machines import Machine
from tests.harness.processes import Launched, is_alive
from tests.harness.waits import until
from tests.harness.watcher import Watcher

#: Kind of strike, what it hits, how often it comes in a round, the method, and its least and
#: longest duration.
KINDS: Final = {
    database: {kind: (what, often, method, lasts) for kind, what, often, method, *lasts in strikes}
    for database, strikes in tomllib.loads(
        Path(__file__).with_name("strikes.toml").read_text(encoding="utf-8")
    ).items()
}
#: Seconds in which the farm must come to rest after the last strike.
_PEACE: Final = 240.0
#: Open children, so many that every machine always has waiting jobs.
_OPEN: Final = 80
_POLICIES: Final[tuple[dict[str, Any], ...]] = (
    {"max_attempts": 3, "retry_elsewhere": True},
    {"max_attempts": 3, "retry_elsewhere": "any"},
    {"max_attempts": 2},
    {},
)
#: State of an attempt, and the fault that holds an attempt in it for a while.
_HELD_BY: Final = {
    "intent": "delay_answer",
    "uncertain": "late_post",
    "accepted": "",
    "running": "",
}
_IN_FLIGHT: Final = (
    "SELECT a.backend_id, a.state, l.runner FROM jobgroups_attempt a"
    " LEFT JOIN jobgroups_lease l ON l.backend_id = a.backend_id WHERE a.ended_at IS NULL"
)
_FILES: Final[dict[str, Any]] = {"route": "/view", "method": "GET", "count": 6}
_FAULTS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "cut sockets": {"drop_sockets": {}},
    "half-open": {"stall_sockets": {}, "hang_http": {"count": 2}},
    "reset in a POST's answer": {"lose_answer": {}},
    "500 in a POST's answer": {"other_500": {}},
    "500 in the answer of a queued POST": {"other_500": {"queued": True}},
    "refuse connections": {"refuse_connections": {}},
    "web page for a file": {"html": _FILES},
    "half a file": {"truncate": _FILES},
    "views that trickle": {"slow_view": {"count": 4}},
    "views without an answer": {"hang_http": {"route": "/view", "count": 4}},
    "slow views": {"slow_view": {"bytes_per_second": 5_000, "count": 8}},
}


def round_of(database: str) -> list[str]:
    """Return the kinds of a round, each as often as it comes."""
    return [kind for kind, (_, often, *_) in KINDS[database].items() for _ in range(often)]


def run(
    folder: Path, database: str, *, seed: int, strikes: int, children: int
) -> tuple[Counter[str], Counter[str]]:
    """Strike a farm that works, check all laws, and return the strikes of each kind, and the states
    that they hit.

    The folder keeps a copy of the database, the audit log of the machines, the strikes and all
    logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        farm(folder, database, seconds=0.3) as built,
        (folder / "strikes.log").open("w", encoding="utf-8") as log,
    ):
        built.start()
        load = Load(built, seed=seed, children=children)
        with ThreadPoolExecutor() as threads:
            loading = threads.submit(load.run)
            try:
                striker = Strikes(built, threads, log, seed)
                kinds = striker.work_off(strikes)
            finally:
                load.stopping.set()
            loading.result(_PEACE + children / 2)
        for watcher in load.watchers.values():
            watcher.wait_ended(_PEACE)
        attempts = (
            "SELECT prompt_id, backend_id, state FROM jobgroups_attempt WHERE ended_at IS NULL"
        )
        pending = (
            "SELECT child_id, tries, due_at, reason FROM jobgroups_capture WHERE due_at IS NOT NULL"
        )
        for query in (attempts, pending):
            until(lambda query=query: not built.query(query), _PEACE, built.printed)
        built.machines.wait_idle()
        built.copy(folder)
        checks.check(folder, list(load.watchers), has_leases=built.has_leases)
        checks.check_copies(folder, folder / "outputs")
        for watcher in load.watchers.values():
            checks.check_stream(
                folder, watcher, built.ask("GET", f"/api/job-groups/{watcher.group_id}").json()
            )
        built.stop()
    return kinds, striker.hits


class Strikes:
    """Strikes in an order that the seed decides; each is mended by a thread when its time is over."""

    def __init__(self, built: Farm, threads: ThreadPoolExecutor, log: TextIO, seed: int) -> None:
        self._farm: Any = built  # what a strike needs of it is that of its database
        self._threads, self._log = threads, log
        self._database = "sqlite" if isinstance(built, SqliteFarm) else "postgres"
        self._dice = random.Random(seed)
        launched = {one.folder.name: one for one in built.all}
        self._processes: dict[str, Launched] = {**launched, **built.machines.by_name}
        self._mends: dict[str, Future[None]] = {}
        #: How many strikes hit an attempt in each state.
        self.hits: Counter[str] = Counter()

    def work_off(self, count: int) -> Counter[str]:
        done: Counter[str] = Counter()
        wanted = self._order(list(_HELD_BY))
        for kind in itertools.islice(self._order(round_of(self._database)), count):
            time.sleep(self._dice.uniform(0.1, 1.0))
            what, _, method, lasts = KINDS[self._database][kind]
            name, seconds = self._victim(what), self._dice.uniform(*lasts)
            hit = self._wait_in_flight(name, next(wanted))
            self.hits.update({*hit, "any"} if hit else ())
            print(
                f"{time.time():.1f} {kind}: {name} for {seconds:.1f} s, hit {Counter(hit)}",
                file=self._log,
                flush=True,
            )
            getattr(self, f"_{method}")(kind, name, seconds)
            done[kind] += 1
        for mend in self._mends.values():
            mend.result()
        self._farm.machines.clear_faults()
        return done

    def _order(self, of_a_round: list[str]) -> Iterator[str]:
        """Yield rounds without end, each in an order of its own: nothing is left out for long."""
        while True:
            yield from self._dice.sample(of_a_round, len(of_a_round))

    def _victim(self, what: str) -> str:
        """Return one that is up, or the names in ``what``; wait for one if all are down."""
        names = [
            one for one in self._processes if one.startswith("gpu" if what == "machine" else what)
        ] or [what]
        up = [one for one in names if self._is_up(one)]
        working = [one for one in up if one.startswith("runner") and self._attempts(one)]
        name: str = self._dice.choice(working or up or names)
        for each in name.split():
            if each in self._mends:
                self._mends[each].result()
        return name

    def _is_up(self, name: str) -> bool:
        return name not in self._mends or self._mends[name].done()

    def _attempts(self, name: str) -> list[tuple[str, str]]:
        """Return backend and state of the attempts in flight that a strike hits."""
        return [
            (backend, state)
            for backend, state, runner in self._farm.query(_IN_FLIGHT)
            if name in (backend, runner) or not name.startswith(("gpu-", "runner-"))
        ]

    def _wait_in_flight(self, name: str, state: str) -> list[str]:
        """Wait a while for an attempt in a state, which a fault makes longer; return the states
        that are hit.
        """
        if fault := _HELD_BY[state]:
            backends = (
                [name] if name.startswith("gpu") else [one for one, _ in self._attempts(name)]
            )
            for backend in [one for one in backends if self._is_up(one)][:3]:
                with suppress(httpx.HTTPError):
                    self._farm.machines[backend].fault(fault, seconds=1.5)
        end = time.monotonic() + 6.0
        while (
            state not in (found := [one for _, one in self._attempts(name)])
            and time.monotonic() < end
        ):
            time.sleep(0.02)
        return found

    def _kill(self, _: str, name: str, seconds: float) -> None:
        process = self._processes[name]
        process.unplug() if isinstance(process, Machine) else process.kill()
        # A process that starts while PostgreSQL is away waits for that by itself.
        self._later(seconds, name, lambda: process.start(wait=isinstance(process, Machine)))

    def _pause(self, _: str, name: str, seconds: float) -> None:
        pid = self._processes[name].process.pid
        os.killpg(pid, signal.SIGSTOP)
        self._later(seconds, name, lambda: os.killpg(pid, signal.SIGCONT))

    def _kill_children(self, _: str, names: str, __: float) -> None:
        self._signal_children(names, signal.SIGKILL)

    def _end_children(self, _: str, names: str, __: float) -> None:
        self._signal_children(names, signal.SIGTERM)

    def _signal_children(self, names: str, number: int) -> None:
        pids = self._farm.pids(names)
        for pid in pids:
            os.kill(pid, number)
        # ``serve`` starts them again.
        self._later(
            0, names, lambda: until(lambda: not set(self._farm.pids(names)) & set(pids), 90.0)
        )

    def _pause_children(self, _: str, names: str, seconds: float) -> None:
        pids = self._farm.pids(names)

        def send(number: int) -> None:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

        send(signal.SIGSTOP)
        self._later(seconds, names, lambda: send(signal.SIGCONT))

    def _kill_parent(self, _: str, names: str, __: float) -> None:
        serve, pids = self._farm.serve, self._farm.pids(names)
        os.kill(serve.process.pid, signal.SIGKILL)
        serve.process.wait()
        self._start_again(names, pids)

    def _kill_all(self, _: str, names: str, __: float) -> None:
        pids = self._farm.pids(names)
        self._farm.serve.kill()
        self._start_again(names, pids)

    def _start_again(self, names: str, pids: Sequence[int]) -> None:
        """Start ``serve`` at once: its port and its data are free, and no process of the one before
        stays.
        """
        self._farm.serve.start()
        until(lambda: not any(map(is_alive, pids)), 20.0)
        self._later(0, names, lambda: self._farm.pids(names))

    def _cut_database(self, _: str, name: str, __: float) -> None:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        with self._farm.connect() as database:
            # A runner that has just been started is not connected yet.
            until(lambda: database.execute(query, [name]).rowcount)

    def _fault(self, kind: str, name: str, seconds: float) -> None:
        for fault, options in _FAULTS[kind].items():
            lasts = {"seconds": seconds} if fault == "refuse_connections" else {}
            self._farm.machines[name].fault(fault, **options, **lasts)
        self._later(seconds, name, lambda: None)

    def _restart(self, _: str, name: str, seconds: float) -> None:
        server = self._farm.redis if name == "redis" else self._farm.postgres
        server.stop()
        self._later(seconds, name, server.start)
        if name == "postgres":
            self._mends[name].result()

    def _later(self, seconds: float, name: str, mend: Callable[[], object]) -> None:
        def wait() -> None:
            time.sleep(seconds)
            mend()

        mending = self._threads.submit(wait)
        self._mends |= dict.fromkeys(name.split(), mending)


class PatientWatcher(Watcher):
    """A watcher that waits before it connects again."""

    def _connect_once(self) -> None:
        super()._connect_once()
        time.sleep(0.2)


class Load:
    """Submits until it is stopped, and at least so many children."""

    def __init__(self, built: Farm, *, seed: int, children: int) -> None:
        self.watchers: dict[str, Watcher] = {}
        self.stopping = threading.Event()
        self._farm, self._least, self._submitted = built, children, 0
        self._dice = random.Random(seed)

    def run(self) -> None:
        while not self.stopping.is_set() or self._submitted < self._least:
            if self._open() < _OPEN:
                self._submit(len(self.watchers) + 1)
            else:
                time.sleep(0.1)

    def _open(self) -> int:
        children = [
            one
            for watcher in self.watchers.values()
            for one in list(watcher.state.children.values())
        ]
        return sum(one["status"] in ("queued", "running") for one in children)

    def _submit(self, number: int) -> None:
        names = self._farm.machines.names
        count = self._dice.randint(4, 16)
        body = {
            "workflow_json": picture(number),
            "timeout_seconds": 120,
            "metadata": {"number": number},
            "submitter": self._dice.choice(("anna", "ben", "cleo")),
            "priority": self._dice.choice((40, 50, 50, 60)),
            **self._dice.choice(_POLICIES),
        }
        if number % 5 == 0:
            body["max_running"] = 2
        if number % 7 == 0:
            body["start_after"] = _in_seconds(3.0)
        if number % 2:
            body["backend_ids"] = [self._dice.choice(names) for _ in range(count)]
        else:
            body |= {"count": count, "backend_ids": self._dice.sample(names, 2)}
            body.pop("retry_elsewhere", None)
        # If the answer is lost, the repeated request gets the same group.
        headers = {"Idempotency-Key": f"chaos-{number}"}
        answer = self._farm.ask("POST", "/api/job-group", json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        group_id = answer.json()["job_group_id"]
        # Backends that are away are left out.
        self._submitted += len(answer.json()["child_jobs"])
        self.watchers[group_id] = watcher = PatientWatcher(self._farm, group_id)
        watcher.started.wait(20.0)
        self._change_the_order(group_id, number)
        if number % 6 == 0:
            answer = self._farm.ask("DELETE", f"/api/job-groups/{group_id}")
            assert answer.status_code == 200, answer.text
        if number % 4 == 0:
            # Another client's prompt; a machine that is away gets none.
            with suppress(httpx.HTTPError):
                self._farm.machines[self._dice.choice(names)].stranger(number, 0.2)

    def _change_the_order(self, group_id: str, number: int) -> None:
        """Pause for a while, which takes prompts back, and bring forward."""
        path = f"/api/job-groups/{group_id}"
        held = {"until": _in_seconds(self._dice.uniform(0.5, 4.0)), "reason": "chaos"}
        calls: list[tuple[str, str, dict[str, Any]]] = []
        if number % 3 == 0:
            calls.append(("POST", f"{path}/pause", held))
        if number % 8 == 0:
            calls.append(("POST", "/api/queue/pause", held))
        if number % 9 == 0:
            calls.append(("PUT", "/api/submitters/ben", {"paused": held}))
        if number % 4 == 1:
            calls += [("PATCH", path, {"priority": 70}), ("POST", f"{path}/next", {})]
        for method, where, body in calls:
            answer = self._farm.ask(method, where, json=body)
            # The group may have ended meanwhile, and the pause before a Director answered.
            is_over = answer.status_code == 400 and "Must be a time to come" in answer.text
            assert is_over or answer.status_code in (200, 409), (where, answer.text)


def _in_seconds(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()
