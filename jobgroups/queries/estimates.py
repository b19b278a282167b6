"""Reads the learned times of workflows on backends, as estimates."""

import datetime as dt
import threading
from typing import Final

from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.models import Timing

#: The newest rows, which are read.
MAX_ROWS: Final = 4_000


class EstimatesReader:
    """Keeps the last reading until another sample is stored. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dt.datetime | None = None
        self._estimates = Estimates()

    def read(self) -> Estimates:
        """Return the estimates from the newest rows."""
        rows = Timing.objects.order_by("-updated_at")
        with self._lock:
            newest = rows.values_list("updated_at", flat=True).first()
            if newest != self._newest:
                found = rows.values_list(
                    "workflow_digest", "backend_id", "models_digest", "seconds", "load_seconds", "updated_at"
                )
                self._estimates = Estimates(TimingRow(*row) for row in found[:MAX_ROWS])
                self._newest = newest
            return self._estimates


_reader: Final = EstimatesReader()


def current_estimates() -> Estimates:
    """Return the estimates from the newest rows; a reading takes one short query unless samples were stored."""
    return _reader.read()
