"""``/api/schema``, and the pages ``/api/docs`` (Swagger UI) and ``/api/redoc`` that show it, from
local files.
"""

import json
from functools import cache
from typing import Final

import yaml
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from director.pages import documents
from director.security.csp import POLICY

#: Both make empty ``<style>`` elements and insert rules by script, which needs the hash of the
#: empty text.
_EMPTY_STYLE: Final = "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"


@cache
def _as_json(name: str) -> str:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return json.dumps(yaml.load(documents.text(name), loader), ensure_ascii=False)  # noqa: S506 a safe loader


@require_safe
def schema(request: HttpRequest) -> HttpResponse:
    """Return the OpenAPI document as YAML, with ``?format=json`` as JSON."""
    if request.GET.get("format") == "json":
        return HttpResponse(_as_json("openapi.yaml"), content_type="application/json")
    return HttpResponse(documents.text("openapi.yaml"), content_type="application/yaml")


@require_safe
def page(request: HttpRequest, *, tool: str) -> HttpResponse:
    """Return a page that shows the OpenAPI document by one of the two tools."""
    response = render(request, "director/api_docs.html", {"tool": tool})
    response.headers["Content-Security-Policy"] = POLICY.replace("style-src 'self'", _EMPTY_STYLE)
    return response
