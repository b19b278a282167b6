"""``/history``: the prompts of an owner that have ended."""

from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request

from backends.errors import FieldInvalid
from jobgroups.api.listener.base import (
    ListenerView,
    body_of,
    empty_response,
    encoded_response,
    id_list,
)
from jobgroups.api.listener.owner import owner_of
from jobgroups.domain.listener_records import history_entry
from jobgroups.queries.listener_prompts import MAX_LISTED, history_records, record_of
from jobgroups.services.listener_prompts import prompts_hide

_MAX_NUMBER = 2**31 - 1


class HistoryView(ListenerView):
    def get(self, request: Request) -> HttpResponse:
        limit = number_in_url(request, "max_items")
        offset = number_in_url(request, "offset")
        if offset is not None and offset < 0:
            offset = None
        records = history_records(
            owner_of(request), limit=MAX_LISTED if limit is None else max(limit, 0), offset=offset
        )
        return encoded_response({record.prompt_id: history_entry(record) for record in records})

    def post(self, request: Request) -> HttpResponse:
        """Remove prompts from the history, those of ``delete`` or, with ``clear``, all."""
        body, owner = body_of(request), owner_of(request)
        prompt_ids = id_list(body, "delete")
        prompts_hide(owner=owner, prompt_ids=None if body.get("clear") else prompt_ids)
        return empty_response()


class HistoryEntryView(ListenerView):
    def get(self, request: Request, prompt_id: str) -> HttpResponse:
        record = record_of(owner_of(request), prompt_id)
        if record is None or not record.is_in_history:
            return encoded_response({})
        return encoded_response({prompt_id: history_entry(record)})


def number_in_url(request: HttpRequest | Request, name: str) -> int | None:
    """Return a number of the query; None: it is left out. Raises ``FieldInvalid``."""
    given = request.GET.get(name)
    if given is None:
        return None
    try:
        number = int(given)
    except ValueError:
        number = _MAX_NUMBER + 1
    if abs(number) > _MAX_NUMBER:
        raise FieldInvalid(name, "Must be a whole number.")
    return number
