"""Places of groups in the queue, and what comes before each. Pure.

The order is that of ``domain.turns``: a group has the place of its first waiting job.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from jobgroups.domain.text import first_of, pluralize
from jobgroups.domain.turns import WaitingJobs

_MOST_NAMED: Final = 3  #: Submitters that a reason names.


class Place(NamedTuple):
    """Where a group stands in the queue, and how many groups of each kind come before it."""

    number: int  #: From 1.
    first: WaitingJobs  #: The jobs that are next.
    higher: int  #: Groups of higher levels.
    fronted: int  #: Groups of the same level that an operator brought to the front.
    own: int  #: Groups of the same turn.
    #: The submitters of its level in their order, of which the first ``before`` have a group that
    #: comes before it.
    submitters: Sequence[str]
    before: int

    @property
    def has_only_own_before(self) -> bool:
        return not (self.higher or self.fronted or self.before - bool(self.own))


def group_places(order: Iterable[tuple[WaitingJobs, int]]) -> dict[str, Place]:
    """Return the places of groups by their ids, in the order of the queue.

    Args:
        order: all waiting jobs, as ``interleave`` yields them.
    """
    places: dict[str, Place] = {}
    level, front, higher, fronted = -1, -1.0, 0, 0
    own, submitters = dict[str, int](), list[str]()
    for jobs, _ in order:
        if jobs.group_id in places:
            continue
        turn, count = jobs.turn, len(places)
        if turn.level != level:
            level, front, higher = turn.level, -1.0, count
        if turn.front != front:
            front, fronted, own, submitters = turn.front, count - higher, {}, []
        mine = own.get(turn.submitter, 0)
        own[turn.submitter] = mine + 1
        before = len(submitters)
        if not mine:
            submitters.append(turn.submitter)
        places[jobs.group_id] = Place(count + 1, jobs, higher, fronted, mine, submitters, before)
    return places


def place_reason(place: Place, use: Mapping[str, float], *, with_names: bool) -> str:
    """Return why groups come before one, as a clause; empty: none does.

    Args:
        use: what submitters have used of the farm.
        with_names: whether other submitters are named.
    """
    turn = place.first.turn
    reasons = []
    if place.higher:
        reasons.append(f"{pluralize(place.higher, 'group has', 'groups have')} a higher priority")
    if place.fronted:
        reasons.append(f"an operator brought {pluralize(place.fronted, 'group')} to the front")

    others = [name for name in place.submitters[: place.before] if name != turn.submitter]

    def named(names: Sequence[str]) -> str:
        if not with_names:
            return pluralize(len(names), "other submitter")
        names = [name or "a submitter without a name" for name in names]
        return first_of(names) if len(names) > _MOST_NAMED else _listed(names)

    if place.own:
        of = "of the same submitter" if turn.submitter else "of the same priority"
        come = pluralize(place.own, f"group {of} comes", f"groups {of} come")
        reasons.append(f"{come} first{f', in turns with {named(others)}' if others else ''}")
    else:
        own_use = use.get(turn.submitter, 0.0)
        less = [name for name in others if use.get(name, 0.0) < own_use]
        if less:
            has = "has" if len(less) == 1 else "have"
            reasons.append(f"{named(less)} {has} used less of the farm")
        # Equal use, or what the submitter has at a higher level counts before.
        if rest := [name for name in others if use.get(name, 0.0) >= own_use]:
            reasons.append(f"{named(rest)} {'comes' if len(rest) == 1 else 'come'} first")
    return _listed(reasons)


def _listed(clauses: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(clauses[:-1]), *clauses[-1:]]))
