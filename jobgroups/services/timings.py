"""Learned times of workflows on backends: stored from samples of the runner, removed by the purge."""

import datetime as dt
from collections.abc import Collection
from typing import Final

from django.db.models import Exists, OuterRef, Q

from backends.models import Backend
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import TimingSample, moving_average
from jobgroups.models import Timing

_KEPT: Final = dt.timedelta(days=90)  #: A time that no job has confirmed for so long is removed.
_KEY: Final = ("workflow_digest", "backend")


@retried_transaction
def timings_store(samples: Collection[TimingSample]) -> None:
    """Store samples, oldest first. Two runners that store one pair at once lose a sample, which is
    allowed.
    """
    digests = {sample.workflow_digest for sample in samples}
    names = {sample.backend_id for sample in samples}
    registered = set(Backend.objects.filter(pk__in=names).values_list("pk", flat=True))
    rows = {
        (row.workflow_digest, row.backend_id): row
        for row in Timing.objects.filter(workflow_digest__in=digests, backend__in=names)
    }
    changed: dict[tuple[str, str], Timing] = {}
    for sample in samples:
        key = sample.workflow_digest, sample.backend_id
        if sample.backend_id in registered:
            row = rows.get(key) or Timing(workflow_digest=key[0], backend_id=key[1])
            _learn(row, sample)
            # The unique key decides whether it is inserted or updated.
            row.pk = None
            rows[key] = changed[key] = row
    # In the order of their keys: two runners do not wait for each other.
    Timing.objects.bulk_create(
        [changed[key] for key in sorted(changed)],
        update_conflicts=True,
        unique_fields=_KEY,
        update_fields=["models_digest", "seconds", "load_seconds", "runs", "updated_at"],
    )


def _learn(row: Timing, sample: TimingSample) -> None:
    if sample.was_loaded:
        if not row.runs and row.seconds is not None and row.seconds > 2 * sample.seconds:
            # The runs before took so much longer since they loaded the models.
            row.load_seconds = row.seconds - sample.seconds
        row.seconds = moving_average(row.seconds if row.runs else None, sample.seconds)
        row.runs += 1
    elif not row.runs or row.seconds is None:
        row.seconds = moving_average(row.seconds, sample.seconds)
    elif sample.was_loaded is False:
        excess = max(0.0, sample.seconds - row.seconds)
        row.load_seconds = moving_average(row.load_seconds, excess)
    row.models_digest = sample.models_digest
    # Not the end of the job: readers compare the newest moment with the one that they have read.
    row.updated_at = now()


def timings_purge() -> None:
    """Remove the times that are old, and those of backends that no longer exist."""
    no_backend = ~Exists(Backend.objects.filter(pk=OuterRef("backend_id")))
    Timing.objects.filter(Q(updated_at__lt=now() - _KEPT) | no_backend).delete()
