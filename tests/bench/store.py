"""What a job costs in the database: its claim, acceptance, start and end, without HTTP, in one
thread.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.processes import databases, subfolder
from tests.harness.processes import filled

#: Backends and jobs. Each backend has one prompt at a time, so a set has at most as many writes as
#: there are backends.
_SIZES = ((3, 180), (20, 400), (200, 2_000))
_STAGES = ("claim", "acceptance", "start", "end")


def measure(folder: Path, *, with_postgres: bool = True) -> list[Figure]:
    found = databases(folder, with_postgres=with_postgres)
    return [
        figure for where, place, settings in found for figure in _figures(where, place, **settings)
    ]


def _figures(where: str, folder: Path, **environment: str) -> list[Figure]:
    figures = []
    for backends, jobs in _SIZES:
        script = f"from tests.bench import store; store.run({backends}, {jobs})"
        taken: dict[str, float] = json.loads(
            filled(subfolder(folder, str(backends)), script, **environment)
        )
        name = f"a job in the database, {backends} backends, {where}"
        figures += [Figure(f"{name}: CPU of its {stage}", taken[stage]) for stage in _STAGES]
        figures += [
            Figure(f"{name}: CPU", sum(taken[stage] for stage in _STAGES)),
            Figure(f"{name}: statements", taken["statements"], ""),
            Figure(f"{name}: jobs", taken["jobs/s"], "/s", more_is_better=True),
        ]
    return figures


def run(backends: int, jobs: int) -> None:
    """Empty the database, run jobs on backends, and print what each has cost, as JSON."""
    from django.core.management import call_command
    from django.db import connection

    from jobgroups.services import attempts
    from jobgroups.services.attempt_sets import AttemptWrite, attempts_store
    from jobgroups.services.claim_sets import claims_store
    from jobgroups.services.claims import ClaimRequest
    from tests.harness import factories

    call_command("migrate", verbosity=0)
    call_command("flush", interactive=False, verbosity=0)
    fences = factories.farm(backends)
    for number in range(0, jobs, 3):
        factories.submit(*(fences[(number + job) % backends].backend_id for job in range(3)))
    cpu, statements = Counter[str](), Counter[str]()

    def counted(execute: Callable[..., Any], *arguments: Any) -> Any:
        statements["all"] += 1
        return execute(*arguments)

    def stage(name: str, work: Callable[[], Any]) -> Any:
        began = time.thread_time()
        result = work()
        cpu[name] += (time.thread_time() - began) * 1000
        return result

    def claim() -> list[tuple[Any, Any]]:
        requests = [ClaimRequest(fence=fence, client_id="socket", depth=2) for fence in fences]
        results = claims_store(requests=requests)
        assert len(results) == len(requests), "a claim was not plain"
        return [(one.fence, result.claim) for one, result in results.items() if result.claim]

    def store(name: str, service: Any, fields: Callable[[int], dict[str, Any]]) -> None:
        writes = [
            AttemptWrite(service, fence, attempt.child.group_id, attempt.pk, fields(attempt.pk))
            for fence, attempt in claimed
        ]
        assert len(stage(name, lambda: attempts_store(writes=writes))) == len(writes), (
            "a write was not plain"
        )

    began, count = time.perf_counter(), 0
    with connection.execute_wrapper(counted):
        while claimed := stage("claim", claim):
            store("acceptance", attempts.attempt_accepted, lambda _: {"node_errors": {}})
            store("start", attempts.attempt_started, lambda _: {})
            store("end", attempts.attempt_ended, lambda key: {"end": _end(key)})
            count += len(claimed)
    seconds = time.perf_counter() - began
    each = {name: spent / count for name, spent in cpu.items()}
    print(json.dumps({**each, "statements": statements["all"] / count, "jobs/s": count / seconds}))


def _end(number: int) -> Any:
    from tests.harness import factories

    file = {"filename": f"a_{number}.png", "subfolder": "", "type": "output"}
    return factories.end(
        outputs={"images": [{**file, "url": "http://gpu.test/view"}]},
        node_outputs={"9": {"images": [file]}},
        executed=frozenset({"9"}),
        origins={"9": "of-9"},
        execution={"outputs_reused": False, "node_seconds": {"3": 1.0, "9": 0.1}},
        last_step=("3", 20, 20),
    )
