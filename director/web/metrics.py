"""``/metrics`` for Prometheus: what the database has, read at the scrape, and what happened in
processes.
"""

import threading
import time
from collections.abc import Iterable
from typing import Final

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from director.web.errors import error_response
from director.web.health import DATABASE_SECONDS, CheckedPart
from jobgroups.api.permissions import principal_of
from jobgroups.database.pools import write_threads
from jobgroups.metrics import TABLES, ProcessesCollector
from jobgroups.queries.metrics import Rows, farm_gauges

_KEPT_SECONDS: Final = 5.0  #: What was read answers all scrapes for so long.

#: Not that of ``/api/health``: the metrics of many rows take longer.
_gauges_of_rows = CheckedPart()


class DatabaseCollector(Collector):
    """Gauges of the rows, the same at each web; without a database only that it does not answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._gauges: dict[str, Rows] = {}

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            began = time.monotonic()
            if began > self._read_at + _KEPT_SECONDS:
                scraped: dict[str, Rows] | None = _gauges_of_rows.answer_within(
                    DATABASE_SECONDS, _read
                )
                self._read_at = time.monotonic()
                self._gauges = {
                    "build_info": {(settings.DIRECTOR_VERSION,): 1},
                    "database_up": {(): scraped is not None},
                    "database_read_seconds": {(): self._read_at - began},
                    **(scraped or {}),
                }
            gauges = self._gauges
        for name, rows in gauges.items():
            family = GaugeMetricFamily(f"director_{name}", **TABLES["database"][name])
            for labels, value in rows.items():
                family.add_metric(labels, value)
            yield family


def _read() -> dict[str, Rows]:
    try:
        return farm_gauges()
    finally:
        connection.close()


registry: Final = CollectorRegistry(auto_describe=False)
registry.register(DatabaseCollector())
registry.register(ProcessesCollector())
ProcessCollector(registry=registry)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """``GET /metrics``: all metrics, in the format that the client accepts."""
    if not principal_of(request).sees_all:
        detail = "Metrics are about all accounts: use a token of an operator, with the scope read."
        return error_response(403, detail, "not_allowed")
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)


# It waits for a database that does not answer.
metrics.reads_in = write_threads  # type: ignore[attr-defined]
