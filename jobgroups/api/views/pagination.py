"""Links to the next and the previous page."""

from __future__ import annotations

from rest_framework.request import Request


def with_query(request: Request, **params: str | None) -> str | None:
    """Return this request's URL with the parameters set; None if one of them is None."""
    query = request.query_params.copy()
    for name, value in params.items():
        if value is None:
            return None
        query[name] = value
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
