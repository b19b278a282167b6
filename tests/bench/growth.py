"""How cost grows: with stored groups, children of a group, backends, watchers; four sizes of each.

Of each step the cost of one more of what grows can be read: whether it is the same at every size.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.bench import status, stored
from tests.bench.figures import p50
from tests.bench.gpus import simulated
from tests.bench.processes import resident_kib, spent, subfolder
from tests.bench.sockets import allow_many
from tests.bench.submission import Client
from tests.bench.watchers import many
from tests.harness.processes import serving


def measure(folder: Path) -> Iterator[str]:
    allow_many()
    for what, (sizes, columns, measured) in _PARTS.items():
        lines = [[what, *columns], ["---"] * (len(columns) + 1)]
        for size in sizes:
            place = subfolder(folder, f"{what}-{size}".replace(" ", "-"))
            lines.append([f"{size:,}", *measured(place, size)])
        yield "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _with_groups(folder: Path, count: int) -> tuple[str, ...]:
    with simulated(folder, 3) as gpus:
        with serving(folder, gpus.urls):
            pass
        stored.fill_sqlite(folder / "data" / "director.sqlite3", count)
        with serving(folder, gpus.urls) as served:
            taken = stored.ask(served, 10)
            slowest = max(taken, key=lambda name: median(taken[name]))
            with Client(served.url) as client:
                posts = []
                for _ in range(15):
                    seconds, group_id = client.send(client.submission(gpus.ids))
                    posts.append(seconds)
                    client.wait(group_id)
                gets = [client.timed(f"/api/job-groups/{group_id}") for _ in range(100)]
    worst = f"{p50(taken[slowest]):.1f} ms ({slowest})"
    return _ms(p50(taken["newest"])), worst, _ms(p50(posts)), _ms(p50(gets))


def _with_children(folder: Path, count: int) -> tuple[str, ...]:
    with simulated(folder, 3) as gpus, serving(folder, gpus.urls) as served, Client(served.url) as client:
        client.wait(client.submit(gpus.ids))
        backend_ids = [gpus.ids[number % 3] for number in range(count)]
        seconds, group_id, span = status.polled_run(served, client, backend_ids)
        gets = [client.timed(f"/api/job-groups/{group_id}") for _ in range(30)]
    each = span.cpu["serve"] / count * 1000
    return _ms(seconds * 1000), _ms(p50(gets)), _ms(each), f"{span.seconds:.2f} s"


def _with_backends(folder: Path, count: int) -> tuple[str, ...]:
    with simulated(folder, count) as gpus:
        began = time.monotonic()
        with serving(folder, gpus.urls) as served:
            online = time.monotonic() - began
            time.sleep(2)
            with spent(serve=served.process.pid) as span:
                time.sleep(10)
            memory = resident_kib(served.process.pid) / 1024
    return f"{span.share('serve'):.1f} %", f"{memory:.0f} MiB", f"{online:.1f} s"


def _with_watchers(folder: Path, count: int) -> tuple[str, ...]:
    with simulated(folder, 3) as gpus, serving(folder, gpus.urls) as served:
        heard = many(served, gpus, count)
    each = heard.cpu_s / count / len(heard.spreads) * 1e6
    return _ms(p50(heard.spreads)), f"{each:.0f} µs", f"{heard.idle_kib:.0f} KiB"


def _ms(value: float) -> str:
    return f"{value:.1f} ms"


_PARTS: dict[str, tuple[tuple[int, ...], tuple[str, ...], Callable[[Path, int], Sequence[str]]]] = {
    "stored groups": (
        (1_000, 10_000, 50_000, 200_000),
        ("list, p50", "slowest query, p50", "POST of 3, p50", "GET, p50"),
        _with_groups,
    ),
    "children of a group": (
        (3, 30, 300, 1_000),
        ("POST", "GET, p50", "CPU of its course, per child", "from POST to its end"),
        _with_children,
    ),
    "backends": ((3, 30, 100, 200), ("idle: of a core", "memory", "until all are online"), _with_backends),
    "watchers of one group": (
        (10, 100, 300, 1_000),
        ("first to last, p50 of events", "CPU per watcher and event", "memory of each"),
        _with_watchers,
    ),
}
