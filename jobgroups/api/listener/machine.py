"""The farm as one machine: ``/system_stats``, ``/features``, ``/free``."""

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.listener.base import ListenerView
from jobgroups.api.requests.upload import upload_limit
from jobgroups.api.views.base import json_response
from jobgroups.queries.listener_machine import features, system_stats


class SystemStatsView(ListenerView):
    def get(self, _request: Request) -> HttpResponse:
        return json_response(system_stats())


class FeaturesView(ListenerView):
    def get(self, _request: Request) -> HttpResponse:
        return json_response(features(upload_limit()))


class FreeView(ListenerView):
    def post(self, _request: Request) -> HttpResponse:
        """Do nothing: the memory of machines is that of all who use them."""
        return HttpResponse()
