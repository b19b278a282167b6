"""``/queue`` and ``/interrupt``: the prompts of an owner that have not ended, and their stops."""

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
from jobgroups.queries.listener_prompts import open_prompts, presented_prompt, queue_records
from jobgroups.services.cancellation import prompts_cancel


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
        """Remove prompts that wait, those of ``delete`` or, with ``clear``, all."""
        body, rows = body_of(request), open_prompts(owner_of(request))
        prompt_ids = id_list(body, "delete")
        if not body.get("clear"):
            rows = rows.filter(prompt_id__in=prompt_ids)
        # The newest first: no other one takes the place of one that was sent to a machine.
        group_ids = list(rows.order_by("-id").values_list("group_id", flat=True))
        prompts_cancel(group_ids=group_ids, statuses={ChildStatus.QUEUED})
        return empty_response()


class InterruptView(ListenerView):
    def post(self, request: Request) -> HttpResponse:
        """Stop the prompt of ``prompt_id``; without one, the prompt that is presented now."""
        body, owner = body_of(request), owner_of(request)
        if named := body.get("prompt_id"):
            prompt_ids = id_list({"prompt_id": [named]}, "prompt_id")
            prompt = open_prompts(owner).filter(prompt_id__in=prompt_ids).first()
        else:
            prompt = presented_prompt(owner)
        prompts_cancel(group_ids=[] if prompt is None else [prompt.group_id])
        return empty_response()
