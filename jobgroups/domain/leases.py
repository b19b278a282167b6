"""Lease balancing: how many backends each runner may hold. Pure."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FencingToken:
    """A runner's right to write about a backend, valid while the lease has this epoch."""

    backend_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTable:
    """Leases and runners, read at one moment.

    ``unclaimed`` backends have had a free lease for so long that no runner below its share wants
    them. A runner that crashes at its start is not stable, and gets nothing.
    """

    unclaimed: frozenset[str] = frozenset()
    #: Runner by backend, without this runner.
    held_by_others: Mapping[str, str] = field(default_factory=dict)
    live_runners: frozenset[str] = frozenset()  #: Names of the other live runners.
    stable_runners: frozenset[str] = frozenset()  #: Those that have been alive for a while.
    #: Seconds until the first lease of another runner expires, unless renewed.
    next_free_in: float | None = None


def fair_share(backends: int, runners: int) -> int:
    return -(-backends // max(runners, 1))


def leases_to_acquire(wanted: Set[str], mine: Set[str], leases: LeaseTable) -> list[str]:
    """Return which of the enabled backends to acquire: up to the fair share, and unclaimed ones."""
    takeable = sorted(wanted - mine - leases.held_by_others.keys())
    room = fair_share(len(wanted), 1 + len(leases.live_runners)) - len(mine)
    within, beyond = takeable[: max(room, 0)], takeable[max(room, 0) :]
    return within + [backend_id for backend_id in beyond if backend_id in leases.unclaimed]


def release_count(wanted: Set[str], mine: Set[str], leases: LeaseTable) -> int:
    """Return how many backends to hand over, so that runners with fewer reach their share.

    Never so many that this runner would want one back: no backend moves back and forth.
    """
    held = wanted & mine
    of_each = dict.fromkeys(leases.stable_runners, 0)
    for backend, name in leases.held_by_others.items():
        if name in of_each and backend in wanted:
            of_each[name] += 1
    runners = 1 + len(leases.live_runners)
    most, least = fair_share(len(wanted), runners), len(wanted) // runners
    if len(held) <= least:
        return 0
    if len(held) > most:
        return min(len(held) - most, sum(max(most - count, 0) for count in of_each.values()))
    # All have at most their share, and one may have nothing all the same: 2, 2 and 0 of four.
    return min(len(held) - least, sum(max(least - count, 0) for count in of_each.values()))
