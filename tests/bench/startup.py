"""How long it takes until the first request is answered."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.figures import Figure
from tests.bench.submission import Client
from tests.harness.processes import ROOT, Served

#: What ``director groups`` imports before it asks anything.
_COMMAND = "from director.__main__ import app; app.is_for(['groups'])"
_LIBRARIES = "import django.contrib.admin, rest_framework, channels, daphne.server, aiohttp"


def measure(folder: Path) -> list[Figure]:
    Served(folder).stop()  # the tables are made once
    libraries = [_python(_LIBRARIES) for _ in range(3)]
    imports = [_python("import director.asgi") for _ in range(3)]
    starts = []
    for _ in range(3):
        began = time.perf_counter()
        served = Served(folder)
        _wait_healthy(served)
        starts.append(time.perf_counter() - began)
        served.stop()
    bare = median(_python("pass") for _ in range(7))
    command = median(_python(_COMMAND) for _ in range(7)) - bare
    floor = median(libraries)
    return [
        Figure("import of the application", median(imports), "s", floor=floor),
        Figure("serve until it is healthy", median(starts), "s", floor=floor, gate=2, goal=1),
        Figure("import of the CLI", command, "s", gate=0.3, goal=0.15),
    ]


def _wait_healthy(served: Served) -> None:
    """Wait until all that ``/api/health`` looks at is well, but for backends: there are none."""
    with Client(served.url) as client:
        while True:
            checks = client.get("/api/health")["checks"]
            if all(one["status"] == "ok" for name, one in checks.items() if name != "backends"):
                return
            time.sleep(0.01)


def _python(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.perf_counter() - began
