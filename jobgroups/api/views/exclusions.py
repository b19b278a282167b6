"""Exclusions: the workflows that a backend cannot run, listed and lifted."""

from rest_framework.request import Request
from rest_framework.response import Response

from backends.queries import backend_find
from jobgroups.api.requests import path_params
from jobgroups.api.views.base import ApiView
from jobgroups.errors import BackendNotFound
from jobgroups.queries.exclusions import exclusions_json
from jobgroups.services.exclusions import exclusions_lift


class ExclusionsView(ApiView):
    """``/api/backends/{id}/exclusions``"""

    def get(self, request: Request, backend_id: str) -> Response:
        """Return the active exclusions of a backend."""
        known = path_params.backend_id(backend_id)
        if backend_find(known) is None:
            raise BackendNotFound(known)
        return Response({"exclusions": exclusions_json(known)})

    def delete(self, request: Request, backend_id: str) -> Response:
        """Lift all exclusions of a backend."""
        exclusions_lift(backend_id=path_params.backend_id(backend_id))
        return Response(status=204)


class ExclusionView(ApiView):
    """``/api/backends/{id}/exclusions/{exclusion_id}``"""

    def delete(self, request: Request, backend_id: str, exclusion_id: str) -> Response:
        """Lift one exclusion."""
        number = path_params.exclusion_id(exclusion_id)
        exclusions_lift(backend_id=path_params.backend_id(backend_id), exclusion_id=number)
        return Response(status=204)
