"""The queue of all waiting jobs."""

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.query_params import QueueQuery
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.api.views.groups import with_query
from jobgroups.domain.pauses import FARM
from jobgroups.domain.shapes.groups import Queue
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.queue import QueueFilter, queue_page
from jobgroups.serializers import serialize_pause


class QueueView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """List the groups that run and wait, in the order in which they start their next jobs."""
        query = QueueQuery.read_query(request.GET)
        offset, limit = query.pop("offset"), query.pop("limit")
        filters = QueueFilter(principal=principal_of(request), **query)
        page = queue_page(filters, offset=offset, limit=limit)
        following = with_query(request, offset=str(offset + limit)) if page.has_more else None
        pause = serialize_pause(current_pauses().by_target.get(FARM))
        return json_response(Queue(items=tuple(page.rows), paused=pause, next=following))
