"""Reads the queue: which groups backends have jobs of, and which wait, in the real order."""

import datetime as dt
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from django.db.models import Q

from jobgroups.domain.access import Principal
from jobgroups.domain.clock import now
from jobgroups.domain.pauses import Pauses
from jobgroups.domain.places import Place
from jobgroups.domain.pool import BoundJobs
from jobgroups.domain.shapes.groups import QueueRow
from jobgroups.domain.waiting_reasons import held_reason
from jobgroups.models import LONG, JobGroup
from jobgroups.queries.etas import Etas, current_etas
from jobgroups.queries.groups import open_groups
from jobgroups.queries.leases import halt_reason
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.visibility import visible
from jobgroups.queries.waiting_reasons import group_reason
from jobgroups.serializers import group_level, group_priority


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilter:
    """Filters of the queue; empty and False match every group."""

    principal: Principal
    submitter: str = ""
    backend: str = ""  #: Whose jobs this backend has, or may take.
    mine: bool = False  #: Whose account is that of the principal.

    @property
    def of_groups(self) -> Q:
        """The condition of the groups that match, as far as their rows decide it."""
        condition = Q(submitter=self.submitter) if self.submitter else Q()
        return condition & Q(owner=self.principal.user_id) if self.mine else condition


class _Entry(NamedTuple):
    """A group with jobs that wait, or that backends have."""

    group_id: str
    place: Place | None  #: None: no job waits.
    queued: int
    running: int


class _Queue:
    """The queue of one snapshot: first the groups of which no job waits, then those that wait, then
    those of which nothing is sent now.
    """

    def __init__(self, etas: Etas) -> None:
        snapshot = etas.current.snapshot
        prompts = itertools.chain.from_iterable(snapshot.prompts.values())
        oldest = sorted(prompts, key=lambda prompt: prompt.attempt_id)
        running = Counter(prompt.group_id for prompt in oldest)
        queued = Counter({group_id: group.jobs for group_id, group in snapshot.held.items()})
        for jobs, number in snapshot.queue:
            queued[jobs.group_id] += number
        places: Mapping[str, Place | None] = dict.fromkeys(
            group_id for group_id in running if group_id not in snapshot.places
        )
        held = snapshot.held.keys() - running.keys()
        last: Mapping[str, Place | None] = dict.fromkeys(
            sorted(held, key=lambda group_id: snapshot.held[group_id].rank)
        )
        self.etas: Final = etas
        self.entries: Final = [
            _Entry(group_id, place, queued[group_id], running[group_id])
            for group_id, place in {**places, **snapshot.places, **last}.items()
        ]

    def groups_at(self, backend_id: str) -> set[str]:
        """Return the groups of which a backend has jobs, or may take them."""
        snapshot = self.etas.current.snapshot
        groups = {prompt.group_id for prompt in snapshot.prompts.get(backend_id, ())}
        for jobs, _ in snapshot.queue:
            is_there = (
                jobs.backend_id == backend_id
                if isinstance(jobs, BoundJobs)
                else backend_id in snapshot.able_of(jobs.variant_id)
            )
            if is_there:
                groups.add(jobs.group_id)
        return groups


_queue_of: Final = lru_cache(maxsize=1)(_Queue)


class QueuePage(NamedTuple):
    """A page of the queue, the groups of its rows by id, and whether more follow."""

    rows: list[QueueRow]
    groups: Mapping[str, JobGroup]
    has_more: bool


def queue_page(filters: QueueFilter, *, offset: int, limit: int) -> QueuePage:
    """Return up to ``limit`` groups in the order of the queue, after so many that match.

    Of a group that the principal does not see, it has the place and the expected start alone.
    """
    # A page that was just changed must not show the old order: the snapshot is read again sooner.
    queue = _queue_of(current_etas(is_incomplete=True))
    entries, principal = queue.entries, filters.principal
    if filters.backend:
        at_backend = queue.groups_at(filters.backend)
        entries = [entry for entry in entries if entry.group_id in at_backend]
    if filters.of_groups:
        rows = open_groups().filter(filters.of_groups & visible(principal)).order_by()
        matching = set(rows.values_list("id", flat=True))
        entries = [entry for entry in entries if entry.group_id in matching]
    page = entries[offset : offset + limit]
    shown = JobGroup.objects.filter(visible(principal), pk__in=[entry.group_id for entry in page])
    groups = shown.defer(*LONG).in_bulk()
    # A group may have ended or been deleted meanwhile.
    moment, pauses = now(), current_pauses()
    halt = halt_reason()
    items = [
        _row(entry, groups.get(entry.group_id), queue.etas, pauses, moment, halt=halt)
        for entry in page
    ]
    return QueuePage(items, groups, len(entries) > offset + limit)


def _row(
    entry: _Entry,
    group: JobGroup | None,
    etas: Etas,
    pauses: Pauses,
    moment: dt.datetime,
    *,
    halt: str,
) -> QueueRow:
    place = entry.place
    start = etas.start_of(entry.group_id) if place and not halt else None
    at = None if start is None else moment + dt.timedelta(seconds=round(start))
    number = place.number if place else None
    if group is None:
        return QueueRow(place=number, expected_start=at)
    reason = None
    if entry.queued:
        pause = pauses.of(group.id, group.share_name)
        reason = held_reason(pause, group.start_after, now=moment)
    if place and not reason:
        reason = halt or group_reason(place, group, etas.current)
    return QueueRow(
        place=number,
        job_group_id=group.id,
        title=group.title,
        submitter=group.share_name or None,
        priority=group_priority(group),
        level=place.first.turn.level if place else group_level(group),
        waiting_reason=reason,
        expected_start=at,
        queued=entry.queued,
        running=entry.running,
    )
