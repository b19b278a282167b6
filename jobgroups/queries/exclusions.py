"""Reads exclusions: which backends cannot run a workflow, and why."""

import datetime as dt
from collections.abc import Collection
from typing import Any, Final

from django.db.models import Q, QuerySet

from jobgroups.database.statements import KEY, Parameter, PreparedQuery
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import monotonic_now
from jobgroups.domain.exclusions import (
    CLASS_OF,
    FAILURES,
    LIFETIME,
    ExclusionKind,
    exclusion_reason,
)
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.shapes import backends as shapes
from jobgroups.models import Exclusion, JobGroup, Variant
from jobgroups.queries.visibility import visible
from jobgroups.serializers import shape


def valid_since() -> dict[str, dt.datetime]:
    """Return for each kind the time after which the last failure must be, for an exclusion to be
    active.
    """
    moment = monotonic_now()
    return {kind.value: moment - lifetime for kind, lifetime in LIFETIME.items()}


def is_active(since: dict[str, dt.datetime] | dict[str, Parameter]) -> Q:
    """Return the condition of exclusions that are active, by the times of :func:`valid_since`."""
    active = Q()
    for kind, failures in FAILURES.items():
        active |= Q(kind=kind, count__gte=failures, last_at__gt=since[kind])
    return active


def active_exclusions(backend_id: str | None = None) -> QuerySet[Exclusion]:
    rows = Exclusion.objects.filter(is_active(valid_since())).order_by("backend_id", "id")
    return rows if backend_id is None else rows.filter(backend_id=backend_id)


def was_refused(backend_id: str, workflow_digest: str) -> bool:
    """Return whether a backend answered a prompt of a workflow with a 500 within the lifetime of an
    exclusion.
    """
    kind = ExclusionKind.MISSING
    rows = Exclusion.objects.filter(
        backend_id=backend_id, workflow_digest=workflow_digest, kind=kind
    )
    return rows.filter(
        failure_class=FailureClass.WORKFLOW_REFUSED, last_at__gt=valid_since()[kind]
    ).exists()


def excluded_by_digest(digests: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the backends that cannot run workflows that are not stored yet, each with a sentence,
    by digest.
    """
    since = valid_since()
    return {
        digest: {row.backend_id: reason_of(row) for row in _of_workflow(digest, **since)}
        for digest in digests
    }


#: The condition of active exclusions in a prepared query, whose values are those of
#: :func:`valid_since`.
ACTIVE: Final = is_active({kind.value: Parameter(kind.value) for kind in FAILURES})
_of_workflow: Final = PreparedQuery(
    lambda: Exclusion.objects.filter(ACTIVE, workflow_digest=KEY, variant_id=0).order_by(
        "backend_id", "id"
    )
)


def reason_of(row: Exclusion) -> str:
    return exclusion_reason(ExclusionKind(row.kind), row.count, row.reason)


def failure_of(row: Exclusion) -> FailureClass:
    """Return the failure class of jobs that wait for excluded backends only."""
    return (
        FailureClass(row.failure_class) if row.failure_class else CLASS_OF[ExclusionKind(row.kind)]
    )


def ends_at(row: Exclusion) -> dt.datetime:
    return row.last_at + LIFETIME[ExclusionKind(row.kind)]


def visible_exclusions(principal: Principal, backend_id: str | None = None) -> QuerySet[Exclusion]:
    """Return the active exclusions of workflows that a principal sees: a reason may name files."""
    rows = active_exclusions(backend_id)
    if principal.sees_all:
        return rows
    groups = JobGroup.objects.filter(visible(principal))
    of_variant = Variant.objects.filter(group__in=groups)
    return rows.filter(
        Q(variant_id=0, workflow_digest__in=groups.values("workflow_digest"))
        | Q(variant_id__in=of_variant.values("pk"))
    )


def exclusions_json(backend_id: str, principal: Principal) -> list[dict[str, Any]]:
    rows = list(visible_exclusions(principal, backend_id))
    groups = dict(
        Variant.objects.filter(pk__in=[row.variant_id for row in rows]).values_list(
            "id", "group_id"
        )
    )
    return [
        shape(
            shapes.Exclusion,
            row,
            exclusion_id=row.id,
            group_id=groups.get(row.variant_id),
            until=ends_at(row),
        )
        for row in rows
    ]
