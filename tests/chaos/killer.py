"""Does what the plan says, at the moment when it hurts most, and counts what was in flight."""

import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

import httpx
import psycopg

from jobgroups.domain.states import AttemptState
from tests.chaos.house import House, signal_group
from tests.chaos.plan import IN_FLIGHT, KINDS, Strike
from tests.harness.machines import Machine

#: Seconds that an attempt in the wanted state is waited for.
_PATIENCE: Final = 6.0
#: What holds an attempt in a state for a while.
_HELD_BY: Final = {AttemptState.INTENT: ("delay_answer", 1.0), AttemptState.UNCERTAIN: ("late_post", 1.5)}
_ACTIVE: Final = (
    "SELECT a.backend_id, a.state FROM jobgroups_attempt a"
    " LEFT JOIN jobgroups_lease l ON l.backend_id = a.backend_id WHERE a.ended_at IS NULL"
)


@dataclass(slots=True)
class Tally:
    """Strikes of each kind, those whose victim had an attempt in flight, and in which states."""

    kinds: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    states: Counter[AttemptState] = field(default_factory=Counter)

    def count(self, strike: Strike, hit: Sequence[AttemptState]) -> None:
        self.kinds[strike.kind] += 1
        self.in_flight += bool(hit)
        self.states.update(set(hit))

    def __str__(self) -> str:
        total = self.kinds.total()
        states = ", ".join(f"{state.value} {self.states[state]}" for state in IN_FLIGHT)
        kinds = "\n".join(f"  {count:3} {kind}" for kind, count in sorted(self.kinds.items()))
        return f"{total} strikes, {self.in_flight} with an attempt in flight: {states}\n{kinds}"


class Killer:
    """Works off a plan in the caller's thread; ``log`` takes a line for each strike."""

    def __init__(self, house: House, log: TextIO) -> None:
        self.tally = Tally()
        self._house = house
        self._log = log
        self._began = time.monotonic()
        self._mends: list[tuple[float, int, str, Callable[[], None]]] = []
        self._order = itertools.count()
        self._database: psycopg.Connection[Any] | None = None

    def work_off(self, plan: Sequence[Strike]) -> None:
        """Strike after strike; at the end all is mended."""
        for strike in plan:
            self._rest(strike.pause)
            self._strike(strike)
        while self._mends:
            self._mend_one()
        for machine in self._house.machines.by_name.values():
            machine.clear_faults()
        if self._database is not None:
            self._database.close()

    # --- one strike -------------------------------------------------------------------------------

    def _strike(self, strike: Strike) -> None:
        name = self._victim(strike)
        self._wait_mended(name)
        scope = self._scope(strike, name)
        self._wait_for(strike.state, scope)
        hit = getattr(self, f"_{KINDS[strike.kind][2]}")(strike, name)
        states = self._states(scope) if hit is None else hit
        self.tally.count(strike, states)
        self._say(f"{strike}: {name} hit {Counter(one.value for one in states)}")

    def _victim(self, strike: Strike) -> str:
        """Return whom it hits: of the runners one that has work, if any has."""
        names = {
            "runner": list(self._house.runners),
            "web": list(self._house.webs),
            "machine": self._house.machines.names,
        }.get(strike.victim, [strike.victim])
        name = names[strike.target % len(names)]
        if strike.victim == "runner":
            holders = {str(one[0]) for one in self._rows("SELECT runner FROM jobgroups_lease")}
            working = [one for one in names if one in holders and not self._is_down(one)]
            name = name if name in working or not working else working[0]
        return name

    def _scope(self, strike: Strike, name: str) -> tuple[str, tuple[str, ...]]:
        """Return the condition for the attempts that it hits."""
        if strike.victim == "runner":
            return " AND l.runner = %s", (name,)
        if strike.victim == "machine":
            return " AND a.backend_id = %s", (name,)
        return "", ()

    def _wait_for(self, state: AttemptState, scope: tuple[str, tuple[str, ...]]) -> None:
        """Wait a while for an attempt in a state, after it was seen to that one will be."""
        end = time.monotonic() + _PATIENCE
        if held := _HELD_BY.get(state):
            self._hold(*held, scope)
        query = f"{_ACTIVE}{scope[0]} AND a.state = %s"
        while time.monotonic() < end and not self._rows(query, *scope[1], state.value):
            self._mend_due()
            time.sleep(0.005)

    def _hold(self, fault: str, seconds: float, scope: tuple[str, tuple[str, ...]]) -> None:
        condition, values = scope
        if "runner" in condition:
            found = self._rows("SELECT backend_id FROM jobgroups_lease WHERE runner = %s", *values)
            names = [str(one[0]) for one in found]
        else:
            names = list(values) or self._house.machines.names
        for name in [one for one in names if not self._is_down(one)][:3]:
            with suppress(httpx.HTTPError):
                self._house.machines[name].fault(fault, seconds=seconds)

    def _states(self, scope: tuple[str, tuple[str, ...]]) -> list[AttemptState]:
        found = self._rows(_ACTIVE + scope[0], *scope[1])
        return [AttemptState(str(one[1])) for one in found]

    # --- what is done -----------------------------------------------------------------------------

    def _kill(self, strike: Strike, name: str) -> None:
        process = self._house.process(name)
        if isinstance(process, Machine):
            process.unplug()
        else:
            process.kill()
        # Not waited for: a process that starts while PostgreSQL is away waits for that by itself.
        self._later(strike.lasts, name, lambda: process.start(wait=isinstance(process, Machine)))

    def _pause(self, strike: Strike, name: str) -> None:
        process = self._house.process(name)
        signal_group(process, signal.SIGSTOP)
        self._later(strike.lasts, name, lambda: signal_group(process, signal.SIGCONT))

    def _cut_database(self, strike: Strike, name: str) -> None:
        self._rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", name)

    def _fault(self, strike: Strike, name: str) -> None:
        for fault, options in _FAULTS[strike.kind].items():
            seconds = {"seconds": strike.lasts} if fault == "refuse_connections" else {}
            self._house.machines[name].fault(fault, **options, **seconds)

    def _restart_redis(self, strike: Strike, name: str) -> None:
        self._house.redis.stop()
        self._later(strike.lasts, name, self._house.redis.start)

    def _restart_postgres(self, strike: Strike, name: str) -> list[AttemptState]:
        states = self._states(("", ()))
        self._house.postgres.stop()
        # Nobody can ask it what is in flight, so nobody is struck meanwhile.
        self._rest(strike.lasts)
        self._house.postgres.start()
        return states

    # --- time -------------------------------------------------------------------------------------

    def _later(self, seconds: float, name: str, mend: Callable[[], None]) -> None:
        heapq.heappush(self._mends, (time.monotonic() + seconds, next(self._order), name, mend))

    def _mend_one(self) -> None:
        due, _, name, mend = heapq.heappop(self._mends)
        time.sleep(max(0.0, due - time.monotonic()))
        mend()
        self._say(f"    {name} is back")

    def _mend_due(self) -> None:
        while self._mends and self._mends[0][0] <= time.monotonic():
            self._mend_one()

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._mend_due()
            time.sleep(min(left, 0.05))

    def _is_down(self, name: str) -> bool:
        return any(one[2] == name for one in self._mends)

    def _wait_mended(self, name: str) -> None:
        while self._is_down(name):
            self._mend_one()

    def _say(self, line: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} {line}", file=self._log, flush=True)

    # --- rows -------------------------------------------------------------------------------------

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        for _ in range(2):
            if self._database is None or self._database.closed:
                self._database = self._house.connect()
            with suppress(psycopg.OperationalError):
                return self._database.execute(query, values).fetchall()
            self._database = None
        raise AssertionError("PostgreSQL does not answer the killer")


_FAULTS: Final[dict[str, dict[str, dict[str, int]]]] = {
    "cut sockets": {"drop_sockets": {}},
    "half-open": {"stall_sockets": {}, "hang_http": {"count": 2}},
    "reset in a POST's answer": {"lose_answer": {}},
    "refuse connections": {"refuse_connections": {}},
}
