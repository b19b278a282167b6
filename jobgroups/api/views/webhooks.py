"""Webhooks: the log of deliveries, their replay, and test messages."""

import secrets
from typing import ClassVar

from asgiref.sync import async_to_sync
from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.body import json_body, optional_json_body
from jobgroups.api.requests.path_params import number
from jobgroups.api.requests.payloads import ReplayRequest, WebhookTestRequest
from jobgroups.api.requests.query_params import DeliveryListQuery
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.api.views.groups import page_response
from jobgroups.database.pools import probe_threads
from jobgroups.domain.access import Right
from jobgroups.domain.clock import iso, now
from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.shapes.webhooks import WebhookTest
from jobgroups.domain.webhooks import TEST, WebhookAnswer, message_body
from jobgroups.queries.webhooks import delivery_list, serialize_delivery
from jobgroups.runner.webhooks import WebhookClient
from jobgroups.services.webhooks import delivery_replay


class DeliveryListView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """List the deliveries of events to webhooks, newest first."""
        query = DeliveryListQuery.read_query(request.GET)
        return page_response(request, delivery_list(principal_of(request), **query))


class ReplayView(ApiView):
    def post(self, request: Request, delivery_id: str) -> HttpResponse:
        """Send a delivery again."""
        ReplayRequest.read(optional_json_body(request))
        return json_response(serialize_delivery(delivery_replay(delivery_id=number(delivery_id))))


class WebhookTestView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    changes_in = probe_threads

    def post(self, request: Request) -> HttpResponse:
        """Send a signed test message to a URL, and return the answer."""
        answer = async_to_sync(_send_test)(WebhookTestRequest.read(json_body(request))["url"])
        error = answer.error or None
        return json_response(
            WebhookTest(delivered=not error, status=answer.status, answer=answer.text, error=error)
        )


async def _send_test(url: str) -> WebhookAnswer:
    async with WebhookClient(DeliveryIntervals().timeout) as client:
        body = message_body(TEST, iso(now()), "", f'{{"type":"{TEST}"}}')
        return await client.send(url, f"msg_{secrets.token_hex(12)}", body)
