"""Exclusions: learned in the transaction that stores a failure, ended by a user or by a change of
the backend.

The backend's row is locked first, as a claim locks it: no claim is stored after an exclusion that
forbids it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.db.models import F

from backends.models import Backend
from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import update_where
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.exclusions import KIND_OF, ExclusionKind
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState
from jobgroups.domain.text import failure_label
from jobgroups.errors import BackendNotFound, ExclusionNotFound
from jobgroups.events import log
from jobgroups.models import Attempt, Exclusion, Variant
from jobgroups.queries.exclusions import valid_since
from jobgroups.services.audit import record
from jobgroups.workflow.digest import CONTENT_INPUTS

_MAX_REASON: Final = 500  #: Characters of a reason.


def is_of_job(attempt: Attempt) -> bool:
    """Return whether what a backend lacks may be an input file of this job of a batch alone: its
    variation sets one.

    The other jobs of its variant may succeed there: the failure counts, and no backend is excluded.
    """
    if (
        attempt.failure_class != FailureClass.NODE_OR_MODEL_MISSING.value
        or not attempt.child.variation_json
    ):
        return False
    variant = Variant.objects.filter(pk=attempt.variant_id or 0).first()
    if variant is None or not _concerns_variant(attempt, ExclusionKind.MISSING, variant):
        return False
    varied: set[str] = set()
    for key, value in json.loads(attempt.child.variation_json).items():
        varied |= {key.rpartition(".")[2], *(value if isinstance(value, dict) else ())}
    names = set(_faulty_inputs(_node_errors(attempt)))
    return not names or bool(names & varied)


def is_answered_500(attempt: Attempt) -> bool:
    """Return whether a prompt was answered with a 500 that is not aiohttp's own, and no lookup
    found the prompt.
    """
    if attempt.state not in (AttemptState.NEVER_ACCEPTED, AttemptState.REFUSED):
        return False
    details = json.loads(attempt.error_details_json or "{}")
    return details.get("unconfirmed") is True and details["status"] == 500 and not details["raised"]


def learn(attempt: Attempt) -> None:
    """Store or extend the exclusion that follows from the failure of a job of the pool, or from a
    500, if one does.

    This transaction has stored the failure of the attempt. A failure that says that the backend
    lacks something is not counted, nor is a 500. The first 500 excludes nothing: its row has the
    count 0.
    """
    is_500, kind = is_answered_500(attempt), None
    if is_500:
        kind = ExclusionKind.MISSING
    elif attempt.variant_id is not None and attempt.failure_class:
        kind = KIND_OF.get(FailureClass(attempt.failure_class))
    if kind is None or is_of_job(attempt):
        return
    if kind is ExclusionKind.MISSING:
        update_where(Attempt, attempt.pk, {"is_counted": False})
        attempt.is_counted = False
    variant = Variant.objects.filter(pk=attempt.variant_id or 0).first()
    # The attempt of a bound job has no variant.
    digest = (variant or attempt.child.variant or attempt.child.group).workflow_digest
    # No key: submissions share that.
    rows = Backend.objects.select_for_update(no_key=True).filter(pk=attempt.backend_id)
    if not (variant or (is_500 and digest)) or rows.first() is None:
        return
    is_of_variant = variant is not None and _concerns_variant(attempt, kind, variant)
    for other_kind, since in valid_since().items():
        Exclusion.objects.filter(
            backend=attempt.backend_id, kind=other_kind, last_at__lte=since
        ).delete()
    moment = now()
    same = {
        "backend_id": attempt.backend_id,
        "workflow_digest": digest,
        "variant_id": attempt.variant_id if is_of_variant else 0,
        "kind": kind.value,
    }
    reason = attempt.error_message or failure_label(attempt.failure_class)
    failure = FailureClass.WORKFLOW_REFUSED if is_500 else ""
    newest = {"reason": reason[:_MAX_REASON], "last_at": moment, "failure_class": failure}
    if not Exclusion.objects.filter(**same).update(count=F("count") + 1, **newest):
        Exclusion.objects.create(**same, **newest, since=moment, count=0 if is_500 else 1)
    log.notify_runners_on_commit()


def _concerns_variant(attempt: Attempt, kind: ExclusionKind, variant: Variant) -> bool:
    """Return whether other variants with the digest may succeed at the backend.

    The missing file may be content (an image, audio …), which digests leave out.
    """
    if not variant.workflow_digest:
        return True
    if kind is not ExclusionKind.MISSING:
        return False
    details = json.loads(attempt.error_details_json or "{}")
    if details.get("refused_by") == "director":
        return True  # an input file of this variant
    if "exception_type" in details:
        # A node raised it. Only the texts for models and modules say what is missing.
        raised = f"{details['exception_type']}: {attempt.error_message}"
        return _MODEL_OR_MODULE.search(raised) is None
    names = list(_faulty_inputs(_node_errors(attempt)))
    return bool(names) and CONTENT_INPUTS.issuperset(names)


_MODEL_OR_MODULE: Final = re.compile(r"\bModel in folder '|ModuleNotFoundError")


def _node_errors(attempt: Attempt) -> dict[str, Any]:
    node_errors: dict[str, Any] = json.loads(attempt.error_details_json or "{}").get("node_errors")
    return node_errors or json.loads(attempt.node_errors_json or "{}")


def _faulty_inputs(node_errors: Mapping[str, Any]) -> Iterator[str]:
    """Give the name of the input of each error, "" where the error has none."""
    for node in node_errors.values():
        errors = node.get("errors") if isinstance(node, dict) else None
        for error in errors if isinstance(errors, list) else ():
            info = error.get("extra_info") if isinstance(error, dict) else None
            yield str(info.get("input_name", "")) if isinstance(info, dict) else ""


def forget(backend_id: str) -> None:
    """Remove the exclusions of a backend that is another one now, or may be: it restarted, or its
    address changed.
    """
    Exclusion.objects.filter(backend=backend_id).delete()


@retried_transaction
def exclusions_lift(*, backend_id: str, exclusion_id: int | None = None) -> int:
    """Remove an exclusion of a backend, or all (None), and notify the runners; return how many were
    removed.

    Raises ``BackendNotFound`` or ``ExclusionNotFound``.
    """
    if Backend.objects.select_for_update(no_key=True).filter(pk=backend_id).first() is None:
        raise BackendNotFound(backend_id)
    rows = Exclusion.objects.filter(backend=backend_id)
    if exclusion_id is not None:
        rows = rows.filter(pk=exclusion_id)
    removed, _ = rows.delete()
    if exclusion_id is not None and not removed:
        raise ExclusionNotFound(backend_id, exclusion_id)
    record(Action.EXCLUSIONS_LIFTED, backend_id, count=removed)
    log.notify_runners_on_commit()
    return removed
