"""``/api/schema``, and the page ``/api/docs`` that shows it by Swagger UI, from local files."""

import json
from functools import cache
from typing import Final

import yaml
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from director.pages import documents, views
from director.security.csp import POLICY

#: Swagger UI makes empty ``<style>`` elements and inserts rules by script, which needs the hash of
#: the empty text.
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
def page(request: HttpRequest) -> HttpResponse:
    """Return the page that shows the OpenAPI document."""
    response = views.render_page(request, "api_docs", {})
    response.headers["Content-Security-Policy"] = POLICY.replace("style-src 'self'", _EMPTY_STYLE)
    return response
