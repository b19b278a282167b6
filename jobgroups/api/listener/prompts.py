"""``/prompt``: queue a prompt, and the length of the queue."""

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.listener.base import ListenerView, body_of
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.listener.submission import submit_prompt
from jobgroups.api.permissions import identity, principal_of
from jobgroups.api.views.base import json_response
from jobgroups.queries.listener_prompts import number_of, open_count


class PromptView(ListenerView):
    starts_jobs = True

    def post(self, request: Request) -> HttpResponse:
        prompt, node_errors = submit_prompt(
            body_of(request),
            owner=owner_of(request),
            program=request.headers.get("User-Agent", ""),
            identity=identity(request),
            principal=principal_of(request),
        )
        return json_response(
            {"prompt_id": prompt.prompt_id, "number": number_of(prompt), "node_errors": node_errors}
        )

    def get(self, request: Request) -> HttpResponse:
        remaining = open_count(owner_of(request))
        return json_response({"exec_info": {"queue_remaining": remaining}})
