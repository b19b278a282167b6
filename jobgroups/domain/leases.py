"""How runners share backends: each has about as many as any other. Pure: leases in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FencingToken:
    """A runner's right to write about a backend: valid while the lease has this epoch."""

    backend_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTable:
    """What stands in the rows about leases and runners, read in one go.

    Attributes:
        unclaimed: backends whose lease has been free for so long that nobody seems to want them.
        held_by_others: what other runners hold, by backend.
        live_runners: names of the other living runners.
        stable_runners: those of them that have lived for a while: one that dies at its start again and again
            is given nothing.
        next_free_in: seconds until the first lease of another one ends if it is not renewed; None:
            there is none.
    """

    unclaimed: frozenset[str] = frozenset()
    held_by_others: Mapping[str, str] = field(default_factory=dict)
    live_runners: frozenset[str] = frozenset()
    stable_runners: frozenset[str] = frozenset()
    next_free_in: float | None = None


def fair_share(backends: int, runners: int) -> int:
    """Return how many backends a runner may have: all of them over all runners, rounded up."""
    return -(-backends // max(runners, 1))


def leases_to_acquire(wanted: Set[str], mine: Set[str], leases: LeaseTable) -> list[str]:
    """Return which backends to try to take: up to the share, and what is left lying.

    Args:
        wanted: backends that are to be driven by somebody.
        mine: those that this runner drives.
        leases: how the others stand.
    """
    takeable = sorted(wanted - mine - leases.held_by_others.keys())
    room = fair_share(len(wanted), 1 + len(leases.live_runners)) - len(mine)
    within, beyond = takeable[: max(room, 0)], takeable[max(room, 0) :]
    return within + [one for one in beyond if one in leases.unclaimed]


def release_count(wanted: Set[str], mine: Set[str], leases: LeaseTable) -> int:
    """Return how many backends to hand over, so that runners with fewer come to their share.

    Never so many that this runner would want one back: no backend goes to and fro.
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
