"""Prompts of the ComfyUI listener: what their owner removes from the history, and their order."""

import datetime as dt
from collections.abc import Collection
from typing import Final

from django.db.models import Q
from django.db.models.functions import Coalesce

from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import Parameter, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.states import ChildStatus
from jobgroups.models import JobGroup, ListenerPrompt
from jobgroups.queries.listener_prompts import history_prompts, number_of, open_prompts

_STEP: Final = dt.timedelta(microseconds=1)  #: Between two places that would be equal.
_AT_ONCE: Final = 500  #: Groups of one statement.


@retried_transaction
def prompts_hide(*, owner: str, prompt_ids: Collection[str] | None = None) -> None:
    """Remove ended prompts of an owner from the history of the listener, those with these ids or
    all; their groups stay.
    """
    rows = history_prompts(owner)
    if prompt_ids is not None:
        rows = rows.filter(prompt_id__in=prompt_ids)
    hidden = list(rows.values_list("pk", flat=True))
    for first in range(0, len(hidden), _AT_ONCE):
        some = ListenerPrompt.objects.filter(pk__in=hidden[first : first + _AT_ONCE])
        some.update(hidden_at=now())


def put_in_order(prompt: ListenerPrompt, group: JobGroup) -> None:
    """Put a new prompt before those of its owner that wait and have higher numbers.

    They share the places in the queue that they had, so nothing of others moves. In the transaction
    of the submission.
    """
    waiting = _waiting_after(
        owner=prompt.owner,
        number=number_of(prompt),
        share_of=group.share_of,
        submitter=group.submitter,
    )
    if not waiting:
        return
    groups = JobGroup.objects.select_for_update().order_by("pk")
    locked = list(groups.filter(pk__in=[group_id for (group_id,) in waiting]).only("pk"))
    later = ListenerPrompt.objects.filter(group__in=locked).annotate(
        place=Coalesce("group__ordered_at", "group__variants__queued_at")
    )
    rows = sorted(later, key=lambda row: (number_of(row), row.pk))
    places = sorted([group.created_at, *(row.place for row in rows)])
    at = places[0] - _STEP
    for row, place in zip([prompt, *rows] if rows else (), places, strict=False):
        at = max(place, at + _STEP)
        JobGroup.objects.filter(pk=row.group_id).update(ordered_at=at)


_NUMBER: Final = Parameter("number")
_waiting_after: Final = PreparedValues(
    lambda: (
        open_prompts(Parameter("owner"))
        .filter(
            Q(number__gt=_NUMBER) | Q(number__isnull=True, pk__gt=_NUMBER),
            group__share_of=Parameter("share_of"),
            group__submitter=Parameter("submitter"),
            group__children__status=ChildStatus.QUEUED,
            group__children__current_attempt__isnull=True,
        )
        .order_by()
        .values_list("group_id")
    )
)


@retried_transaction
def prompts_note_presented(*, prompt_ids: Collection[int]) -> None:
    """Note that a socket of their client got the ends of prompts, by the keys of their rows."""
    rows = ListenerPrompt.objects.filter(pk__in=prompt_ids, presented_at=None)
    rows.update(presented_at=now())
