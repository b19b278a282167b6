"""A large farm with a long line, and what the steps of a claim take, in a process with Django: see
``line``.
"""

import datetime as dt
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from django.core.management import call_command
from django.db import connection, transaction

from backends.models import Backend
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.domain.exclusions import ExclusionKind
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.schedule import Backlog, Schedule
from jobgroups.models import Exclusion, Timing, Variant
from jobgroups.queries import etas, pool, queue
from jobgroups.services import claims
from tests.harness import factories

_WORKFLOWS, _MODELS, _TAGS, _TIMED = 200, 20, 10, 20


def fill(backends: int, groups: int, jobs: int, submitters: int = 0) -> None:
    """Fill the database: each backend has a job of the pool, and a fifth more jobs wait for half of
    them. ``submitters``: 0 for one.
    """
    call_command("migrate", verbosity=0)
    names = [f"gpu-{at}" for at in range(backends)]
    with transaction.atomic():
        fences = [
            factories.online(name, vram=24, tags=[f"t{at % _TAGS}"])
            for at, name in enumerate(names)
        ]
        for at in range(groups):
            some = [names[(at * 10 + more) % backends] for more in range(10)]
            candidates = [["*"], [f"tag:t{at // 3 % _TAGS}"], some][at % 3]
            by = {"submitter": f"s{at % submitters}"} if submitters else {}
            group = factories.submit_to_pool(jobs, *candidates, workflow=_workflow(at), **by)
            if at % 3 == 0:
                for fence in islice(fences, at, at + 3):
                    factories.claim_from_pool(fence, group)
            factories.submit(
                *(names[-1 - (at * 7 + more) % (backends // 2)] for more in range(jobs // 5)), **by
            )
    moment = now()
    Backend.objects.update(last_seen_at=moment + dt.timedelta(hours=1))
    learned: dict[str, Any] = {"seconds": 60, "load_seconds": 20, "runs": 3, "updated_at": moment}
    digests = Variant.objects.order_by("id").values_list("workflow_digest", "models_digest")[
        :_WORKFLOWS
    ]
    Timing.objects.bulk_create(
        Timing(
            workflow_digest=one,
            models_digest=models,
            backend_id=names[(at * 7 + more) % backends],
            **learned,
        )
        for at, (one, models) in enumerate(digests)
        for more in range(_TIMED)
    )
    missing = {"kind": ExclusionKind.MISSING, "since": moment, "last_at": moment}
    Exclusion.objects.bulk_create(
        Exclusion(backend_id=name, workflow_digest=digests[at % len(digests)][0], **missing)
        for at, name in enumerate(names[::2])
    )
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def _workflow(at: int) -> dict[str, Any]:
    loader = {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": f"{at % _MODELS}.safetensors"},
    }
    sampler = {"class_type": "KSampler", "inputs": {"seed": 1, "steps": at % _WORKFLOWS}}
    return {**factories.WORKFLOW, "1": loader, "3": sampler}


def _page() -> None:
    filters = queue.QueueFilter(principal=EVERYBODY)
    queue.queue_page(filters, offset=0, limit=100)


def measure(rounds: int = 20, each: int = 10) -> None:
    """Print the seconds that each step takes, as JSON."""
    taken = defaultdict[str, list[float]](list)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        yield
        taken[name].append(time.perf_counter() - began)
        taken[f"CPU of {name}"].append(time.process_time() - cpu)

    backends = pool.pool_backends()
    for at in range(rounds):
        with timed("reading"):
            backlog = Backlog(pool.pool_snapshot(backends))
        schedule = Schedule()
        schedule.renew(backlog)
        with timed("first choice"):
            first = schedule.choose("gpu-0", prompts=1)
        assert first is not None
        schedule.put_back(first)
        for more in range(at * each, (at + 1) * each):
            name = f"gpu-{more % (len(backends) // 2)}"
            with timed("choice"):
                choice = schedule.choose(name, prompts=1)
            assert choice is not None
            with timed("claim"):
                found = claims.child_claim(
                    fence=FencingToken(name, 1), client_id="c", depth=rounds, choice=choice
                )
            assert found.from_pool
        pool._cache.forget()
        with timed("estimates of the web"):
            etas.current_etas()
        with timed("the queue"):
            _page()
        for _ in range(each):
            with timed("a page of the queue"):
                _page()
    print(json.dumps(taken))
