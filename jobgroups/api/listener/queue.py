"""``/queue`` and ``/interrupt``: the prompts of an owner that have not ended, and their stops."""

from time import monotonic, sleep
from typing import Final

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.listener.base import (
    ListenerView,
    body_of,
    empty_response,
    encoded_response,
    id_list,
)
from jobgroups.api.listener.owner import owner_of
from jobgroups.domain.states import ChildStatus
from jobgroups.models import ListenerPrompt
from jobgroups.queries.listener_prompts import open_prompts, queue_records, started_prompts
from jobgroups.services.cancellation import prompts_cancel
from jobgroups.streams.listener import listener

_STORED_WITHIN: Final = 2.0  #: Seconds from a frame to its row, at most.
_STORED_POLL: Final = 0.05


class QueueView(ListenerView):
    def get(self, request: Request) -> HttpResponse:
        running, waiting = queue_records(owner_of(request))
        return encoded_response(
            {
                "queue_running": [record.item for record in running],
                "queue_pending": [record.item for record in waiting],
            }
        )

    def post(self, request: Request) -> HttpResponse:
        """Remove prompts that wait, those of ``delete`` or, with ``clear``, all. One of ``delete`` that
        runs beside the presented one is stopped: to the program it waits, as one ComfyUI executes
        one prompt at a time. comfy-cli and Krita would stop the presented one in its place.
        """
        body, owner = body_of(request), owner_of(request)
        prompt_ids, rows = id_list(body, "delete"), open_prompts(owner)
        if not body.get("clear"):
            rows = rows.filter(prompt_id__in=prompt_ids)
            presented = started_prompts(owner).values_list("group_id", flat=True)[:1]
            beside = started_prompts(owner).filter(prompt_id__in=prompt_ids)
            beside = beside.exclude(group_id__in=list(presented))
            prompts_cancel(group_ids=list(beside.values_list("group_id", flat=True)))
        # The newest first: no other one takes the place of one that was sent to a machine.
        group_ids = list(rows.order_by("-id").values_list("group_id", flat=True))
        prompts_cancel(group_ids=group_ids, statuses={ChildStatus.QUEUED})
        return empty_response()


class InterruptView(ListenerView):
    def post(self, request: Request) -> HttpResponse:
        """Stop the prompt of ``prompt_id`` if it has started; without one, the prompt that is
        presented now.
        """
        body, owner = body_of(request), owner_of(request)
        named = body.get("prompt_id")
        prompt_ids = id_list({"prompt_id": [named]}, "prompt_id") if named else None
        prompt = _started(owner, prompt_ids)
        prompts_cancel(group_ids=[] if prompt is None else [prompt.group_id])
        return empty_response()


def _started(owner: str, prompt_ids: list[str] | None) -> ListenerPrompt | None:
    """Return the first started prompt of an owner, of those with an id or, with None, of all. A
    program may have the frame of its start before that is stored.
    """
    rows, started = open_prompts(owner), started_prompts(owner)
    if prompt_ids is None:
        # Not of all that were sent: a second press on Cancel would stop the next prompt.
        rows = rows.filter(pk__in=listener.started(owner))
    else:
        rows, started = (each.filter(prompt_id__in=prompt_ids) for each in (rows, started))
    is_sent = rows.filter(group__children__current_attempt__isnull=False)
    until = monotonic() + _STORED_WITHIN
    while True:
        prompt = started.all().first()
        if prompt is not None or monotonic() > until or not is_sent.all().exists():
            return prompt
        sleep(_STORED_POLL)
