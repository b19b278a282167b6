"""A scrape of the metrics of a large farm: 200 backends, each with every workflow that has a label,
and 6,000 queued jobs.
"""

import json
from pathlib import Path

from tests.bench.figures import Figure, p50
from tests.bench.processes import databases
from tests.harness.processes import filled

_SCRAPE_SECONDS = 15
_SCRIPT = """
import gc, json, time
from pathlib import Path
from django.conf import settings
from prometheus_client import generate_latest
from backends.models import Backend
from director.web import metrics as view
from jobgroups import metrics
from tests.bench import line_rows

backends, jobs = {size}
line_rows.fill(backends, 100, jobs)
names = list(Backend.objects.values_list("pk", flat=True))
metrics.open_files(settings.DIRECTOR_DATA_DIR / "metrics", names)
for name in names:
    for number in range(metrics.MAX_WORKFLOWS + 1):
        metrics.observe_job(f"{{number:016x}}", name, 12.0)
    for kind in ("out_of_memory", "node_error", "backend_lost"):
        metrics.failures.labels(kind, name).inc()
    metrics.busy_seconds.labels(name).inc(2.0)
    metrics.model_switches.labels(name).inc()
view._KEPT_SECONDS = -1.0
# As in a process that serves.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 50)
taken = []
for _ in range(20):
    began = time.process_time()
    text = generate_latest(view.registry)
    taken.append(time.process_time() - began)
print(json.dumps([taken, text.count(b"\\n")]))
"""


def measure(
    folder: Path, *, size: tuple[int, int] = (200, 50), with_postgres: bool = True
) -> list[Figure]:
    found = databases(folder, with_postgres=with_postgres)
    return [
        figure
        for where, place, settings in found
        for figure in _figures(where, place, size, **settings)
    ]


def _figures(where: str, folder: Path, size: tuple[int, int], **environment: str) -> list[Figure]:
    taken, lines = json.loads(filled(folder, _SCRIPT.format(size=size), **environment))
    name = f"metrics of {size[0]} backends, {where}"
    return [
        Figure(
            f"{name}: CPU of a scrape, p50",
            p50(taken),
            gate=_SCRAPE_SECONDS * 10,
            goal=_SCRAPE_SECONDS * 5,
        ),
        Figure(f"{name}: lines", lines, ""),
    ]
