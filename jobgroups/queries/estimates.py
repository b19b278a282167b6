"""Reads the learned times of workflows on backends, as estimates."""

import datetime as dt
from functools import lru_cache
from typing import Final

from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.models import Timing

MAX_ROWS: Final = 4_000  #: The newest rows, which are read.


def current_estimates() -> Estimates:
    """Return the estimates from the newest rows; a reading takes one short query unless samples were stored."""
    return _estimates_of(Timing.objects.order_by("-updated_at").values_list("updated_at", flat=True).first())


@lru_cache(maxsize=1)
def _estimates_of(newest: dt.datetime | None) -> Estimates:  # noqa: ARG001 the key of the last reading
    columns = ("workflow_digest", "backend_id", "models_digest", "seconds", "load_seconds", "updated_at")
    rows = Timing.objects.order_by("-updated_at").values_list(*columns)
    return Estimates(TimingRow(*row) for row in rows[:MAX_ROWS])
