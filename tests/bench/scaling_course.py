"""``python -m tests.bench.scaling_course``: what a child's transactions cost, and a round of a runner.

Runs the Director's own services against the PostgreSQL that ``DIRECTOR_DATABASE_URL`` names, one after
the other on one connection, and prints a JSON object: CPU milliseconds of this thread (``python``) and of
PostgreSQL (``postgres``), and wall clock (``wall``), each the mean of one call.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Children of the groups whose transactions are timed.
SMALL, LARGE = 20, 10_000
#: Children of each that are taken through their course.
_TIMED = 100
_RUNNER = "course"

Spent = dict[str, float]


class _Clock:
    """Adds up what calls cost, by name."""

    def __init__(self) -> None:
        from django.db import connection

        connection.ensure_connection()
        self._server = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat")
        self._sums: dict[str, Spent] = defaultdict(lambda: defaultdict(float))

    @contextmanager
    def timed(self, name: str, calls: int = 1) -> Iterator[None]:
        before = self._now()
        yield
        sums = self._sums[name]
        sums["calls"] += calls
        for what, value in self._now().items():
            sums[what] += value - before[what]

    def _now(self) -> Spent:
        return {
            "python": time.thread_time() * 1e3,
            # On-CPU time in nanoseconds; the ticks of ``stat`` are as long as ten transactions.
            "postgres": int(self._server.read_text().split()[0]) / 1e6,
            "wall": time.perf_counter() * 1e3,
        }

    def means(self) -> dict[str, Spent]:
        return {
            name: {what: sums[what] / sums["calls"] for what in ("python", "postgres", "wall")}
            for name, sums in self._sums.items()
        }


def _register(numbers: range) -> list[str]:
    """Register backends with a lease each, as they stand in a farm."""
    from backends.models import Backend
    from jobgroups.models import Lease
    from jobgroups.queries.leases import database_now
    from jobgroups.services.leases import LEASE_TTL

    ids = [f"gpu-{number:05d}" for number in numbers]
    Backend.objects.bulk_create([Backend(id=one, name=one, url=f"http://{one}.test:8188") for one in ids])
    until = database_now() + 10_000 * LEASE_TTL
    Lease.objects.bulk_create([Lease(backend_id=one, runner=_RUNNER, expires_at=until) for one in ids])
    return ids


def _round() -> None:
    """Do what a runner does on each ring for work, before it wakes anybody (``RunnerService``)."""
    from jobgroups.queries import work

    work.pending_work()


def _course(clock: _Clock, ids: list[str], size: str, children: int, timed: int) -> None:
    """Submit a group and take some of its children from the claim to their end."""
    from jobgroups.domain.leases import FencingToken
    from jobgroups.services import attempts, claims
    from tests.harness import factories

    with clock.timed(f"submit {size}"):
        factories.submit(*(ids * (children // len(ids) + 1))[:children])
    if size == "large":
        _timed_round(clock, "busy")
    for backend_id in (ids * (timed // len(ids) + 1))[:timed]:
        fence = FencingToken(backend_id, 0)
        with clock.timed(f"claim {size}"):
            claim = claims.child_claim(fence=fence, client_id="socket-1", depth=2)
        assert claim is not None
        told: dict[str, Any] = {"attempt_id": claim.attempt_id, "fence": fence}
        with clock.timed(f"accepted {size}"):
            attempts.attempt_accepted(**told)
        with clock.timed(f"started {size}"):
            attempts.attempt_started(**told)
        with clock.timed(f"reported {size}"):
            attempts.attempt_outputs_stored(node_outputs={"9": factories.OUTPUTS}, **told)
        with clock.timed(f"ended {size}"):
            attempts.attempt_ended(end=factories.end(), **told)
    if size == "large":
        return
    with clock.timed("nothing to claim", len(ids)):
        for backend_id in ids:
            claims.child_claim(fence=FencingToken(backend_id, 0), client_id="socket-1", depth=2)


def _timed_round(clock: _Clock, name: str, times: int = 5) -> None:
    _round()
    for _ in range(times):
        with clock.timed(f"round {name}"):
            _round()


def _measure() -> dict[str, Spent]:
    from django.db import connection

    clock = _Clock()
    ids = _register(range(SMALL))
    _course(clock, ids, "warm", SMALL, SMALL)
    for _ in range(_TIMED // SMALL):
        _course(clock, ids, "small", SMALL, SMALL)
    _timed_round(clock, "small")
    more = _register(range(SMALL, LARGE))
    with connection.cursor() as cursor:
        # The server does this by itself, some minutes after so many insertions.
        cursor.execute("ANALYZE")
    _timed_round(clock, "idle")
    _course(clock, ids + more, "large", LARGE, _TIMED)
    return clock.means()


def main() -> None:
    """Make the tables, measure, and print."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    print(json.dumps(_measure()))


if __name__ == "__main__":
    main()
