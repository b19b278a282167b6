"""What all views of the API have in common: JSON in, JSON out, whatever the headers ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class _AlwaysJSON(BaseContentNegotiation):
    """Answers in JSON: a browser's ``Accept`` and a ``?format=`` are no reason for an error."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)


class ApiView(APIView):
    """A path of the API."""

    content_negotiation_class = _AlwaysJSON

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        """Answer with the allowed methods alone, in ``Allow``."""
        return Response(status=204)
