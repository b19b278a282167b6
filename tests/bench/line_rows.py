"""A large farm with a long line, and what the steps of a claim take, in a process with Django: see
``line``.

It also runs with the code of earlier commits, so it imports what they lack where it is used.
"""

import datetime as dt
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from django.core.management import call_command
from django.db import connection, transaction

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.exclusions import ExclusionKind
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.schedule import Backlog, Choice, Schedule
from jobgroups.models import Exclusion, Timing, Variant
from jobgroups.queries import etas, pool
from jobgroups.services import claims
from tests.harness import factories

try:
    from jobgroups.services import claim_sets
except ImportError:  # Each claim was stored alone.
    claim_sets = None  # type: ignore[assignment]

_WORKFLOWS, _MODELS, _TAGS, _TIMED = 200, 20, 10, 20
_DEPTH = 1_000


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


class _Steps:
    """The seconds and the CPU time that steps have taken, by name."""

    def __init__(self) -> None:
        self._taken = defaultdict[str, list[float]](list)

    @contextmanager
    def timed(self, name: str, count: int = 1) -> Iterator[None]:
        """Note what each of ``count`` steps takes."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self._taken[name].append((time.perf_counter() - began) / count)
        self._taken[f"CPU of {name}"].append((time.process_time() - cpu) / count)

    def print(self) -> None:
        print(json.dumps(self._taken))


def _claim(choices: Sequence[Choice]) -> list[Any]:
    """Claim what backends chose, as runners do; return the results."""
    requests: list[dict[str, Any]] = [
        {
            "fence": FencingToken(choice.backend_id, 1),
            "client_id": "c",
            "depth": _DEPTH,
            "choice": choice,
        }
        for choice in choices
    ]
    if claim_sets is None:
        return [claims.child_claim(**request) for request in requests]
    of_sets = [
        claims.ClaimRequest(**request, bound_first=request["choice"].bound_first)
        for request in requests
    ]
    results = claim_sets.claims_store(requests=of_sets)
    return [results.get(request) or request.store_alone() for request in of_sets]


def measure(readings: int = 20, each: int = 10) -> None:
    """Print the seconds that each step takes, as JSON."""
    steps, backends = _Steps(), pool.pool_backends()
    half = len(backends) // 2
    for at in range(readings):
        with steps.timed("reading"):
            backlog = Backlog(pool.pool_snapshot(backends))
        schedule = Schedule()
        schedule.renew(backlog)
        with steps.timed("first choice"):
            first = schedule.choose("gpu-0", prompts=1)
        assert first is not None
        schedule.put_back(first)
        # The second half has bound jobs.
        for beside, offset in (("", 0), (" beside bound jobs", half)):
            for more in range(at * each, (at + 1) * each):
                with steps.timed(f"choice{beside}"):
                    choice = schedule.choose(f"gpu-{offset + more % half}", prompts=1)
                assert choice is not None
                with steps.timed(f"claim{beside}"):
                    [result] = _claim([choice])
                assert result.claim
                assert beside or result.from_pool
        names = [f"gpu-{(at * each + more) % half}" for more in range(each)]
        chosen = [choice for name in names if (choice := schedule.choose(name, prompts=1))]
        with steps.timed("claim in a set", len(chosen)):
            results = _claim(chosen)
        assert all(result.claim for result in results)
        pool._cache.forget()
        with steps.timed("estimates of the web"):
            etas.current_etas()
    steps.print()


def measure_queue(rounds: int = 20, each: int = 10) -> None:
    """Print the same of the queue: the first page after a reading, and the next ones."""
    from jobgroups.domain.access import EVERYBODY
    from jobgroups.queries import queue

    steps, filters = _Steps(), queue.QueueFilter(principal=EVERYBODY)
    for _ in range(rounds):
        pool._cache.forget()
        etas.current_etas()
        with steps.timed("the queue"):
            queue.queue_page(filters, offset=0, limit=100)
        for _ in range(each):
            with steps.timed("a page of the queue"):
                queue.queue_page(filters, offset=0, limit=100)
    steps.print()
