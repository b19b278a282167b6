"""Base of the views: JSON requests and JSON responses. The ``Accept`` header is ignored."""

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class _AlwaysJSON(BaseContentNegotiation):
    """Respond in JSON: the ``Accept`` header of a browser and ``?format=`` cause no error."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)


class ApiView(APIView):
    """A path of the API."""

    content_negotiation_class = _AlwaysJSON

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        """Return the allowed methods in ``Allow``, and no body."""
        return Response(status=204)
