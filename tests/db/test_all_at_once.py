"""Runners, users and failing backends at the same time: the laws hold in every order."""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from pytest_django import Settings

from backends.errors import RequestError
from backends.models import Backend, Reachability
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.failures import OVERTAKEN, FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, ChildStatus, RetryScope, Where
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import attempts, cancellation, expiry, holds, moves, outages, retries
from jobgroups.services.assignment import Choice
from tests.db.stream_client import assert_law, connect
from tests.harness import factories
from tests.harness.races import started

pytestmark = pytest.mark.django_db(transaction=True)

NAMES: Final = ("gpu-1", "gpu-2", "gpu-3")
#: Seconds of concurrent work.
FOR: Final = 2.0
FINAL: Final = ("child_completed", "child_failed", "child_timeout", "child_cancelled")
KINDS: Final = (
    FailureClass.OUT_OF_MEMORY,
    FailureClass.CUDA_FATAL,
    FailureClass.NODE_ERROR,
    FailureClass.NODE_OR_MODEL_MISSING,
)


class Driver:
    """One backend, and the runner that drives it with an end for each prompt."""

    def __init__(self, name: str, jitter: random.Random) -> None:
        factories.backend(name, reachability=Reachability.ONLINE, last_seen_at=now())
        self.fence: FencingToken = factories.lease(name)
        self.name = name
        self.jitter = jitter
        #: Prompts with a pending stop, which end later.
        self.late: list[Attempt] = []

    def step(self) -> bool:
        if self.late and self.jitter.random() < 0.5:
            self.end_late(self.late.pop(0))
            return True
        claimed = factories.claim_alone(fence=self.fence, client_id="c", depth=2).claim
        if claimed is not None:
            self.handle(claimed)
        return claimed is not None

    def handle(self, claimed: Attempt) -> None:
        """Send a prompt, and have it end in one of the possible ways."""
        it: dict[str, Any] = {"attempt_id": claimed.pk, "fence": self.fence}
        way = self.jitter.choice(
            ["success", "success", "error", "lost", "not sent", "time", "forgotten", "offline"]
        )
        if way == "not sent":
            attempts.attempt_not_sent(**it)
            return
        attempts.attempt_accepted(**it)
        if way == "forgotten":
            attempts.attempt_lost(**it, reason="forgotten")
            return
        if way != "offline" or self.jitter.random() < 0.5:
            attempts.attempt_started(**it)
        match way:
            case "offline":
                # Perhaps moved, else it goes on until it ends.
                outages.attempts_move(fence=self.fence, reason="no answer.")
                self.late.append(claimed)
            case "time":
                attempts.attempt_timed_out(**it, offline=self.jitter.random() < 0.3)
                if self.jitter.random() < 0.5:
                    attempts.attempt_stalled(**it)
                self.late.append(claimed)
            case "lost":
                attempts.attempt_lost(**it, reason="it crashed")
            case "error":
                kind = self.jitter.choice(KINDS)
                attempts.attempt_ended(**it, end=factories.end(AttemptState.ERROR, failure=kind))
            case _:
                attempts.attempt_ended(**it, end=factories.end())

    def end_late(self, claimed: Attempt) -> None:
        """Have a prompt end after its stop was requested."""
        state = self.jitter.choice([AttemptState.SUCCESS, AttemptState.INTERRUPTED])
        failure = FailureClass.INTERRUPTED if state is AttemptState.INTERRUPTED else None
        end = factories.end(state, failure=failure)
        attempts.attempt_ended(attempt_id=claimed.pk, fence=self.fence, end=end)

    def housekeep(self) -> None:
        holds.prompts_evict(fence=self.fence)
        row = Backend.objects.get(pk=self.name)
        if row.hold or row.quarantined_at:
            expiry.children_reassign(fence=self.fence, reason="held back.")
        if self.jitter.random() < 0.03:
            expiry.children_fail_unavailable(fence=self.fence, away_s=600, reason="refused")


def use(jitter: random.Random) -> None:
    group_id = jitter.choice(list(JobGroup.objects.values_list("id", flat=True)))
    name = jitter.choice(NAMES)
    job_id = jitter.choice(list(ChildJob.objects.values_list("id", flat=True)))
    its_group = ChildJob.objects.get(pk=job_id).group_id
    choice = jitter.choice([Choice(), *(Choice(where=one) for one in Where)])
    actions: list[Callable[[], Any]] = [
        lambda: retries.group_retry(group_id=group_id),
        lambda: retries.group_retry(group_id=group_id, choice=Choice(elsewhere=RetryScope.ANY)),
        *[lambda: retries.child_retry(group_id=its_group, job_id=job_id, choice=choice)] * 2,
        *[lambda: moves.child_move(group_id=its_group, job_id=job_id, backend_id=name)] * 2,
        lambda: holds.backend_hold(backend_id=name, hold=Hold.PAUSE, at_once=True),
        lambda: holds.backend_quarantine(backend_id=name),
        *[lambda: holds.backend_resume(backend_id=name)] * 3,
        *[lambda: holds.backend_release(backend_id=name)] * 3,
    ]
    if jitter.random() < 0.05:
        actions = [lambda: cancellation.group_cancel(group_id=group_id)]
    with contextlib.suppress(RequestError):
        jitter.choice(actions)()


def running(
    work: Callable[[], Any], until: float, broke: list[BaseException], pause: float = 0.0
) -> threading.Thread:
    def run() -> None:
        try:
            while time.monotonic() < until and not broke:
                work()
                time.sleep(pause)
        except BaseException as error:  # noqa: BLE001 raised in the test's own thread
            broke.append(error)

    return started(run)


def drive_to_the_end(drivers: list[Driver]) -> None:
    for name in NAMES:
        holds.backend_resume(backend_id=name)
    for _ in range(400):
        for name in NAMES:
            holds.backend_release(backend_id=name)
        ChildJob.objects.update(not_before=None)
        moved = [driver.step() for driver in drivers]
        for driver in drivers:
            # Given up while it was sent.
            stopped = Attempt.objects.filter(backend_id=driver.name, ended_at__isnull=True)
            for attempt_id in stopped.values_list("id", flat=True):
                end = factories.end(AttemptState.INTERRUPTED, failure=FailureClass.INTERRUPTED)
                attempts.attempt_ended(attempt_id=attempt_id, fence=driver.fence, end=end)
        if not any(moved) and not ChildJob.objects.filter(status=ChildStatus.QUEUED).exists():
            return


@pytest.mark.parametrize("seed", [1, 2])
def test_concurrent_services_keep_the_laws(seed: int, settings: Settings) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0
    jitter = random.Random(seed)
    drivers = [Driver(name, random.Random(seed * 10 + at)) for at, name in enumerate(NAMES)]
    made = [
        factories.submit(
            *(jitter.choice(NAMES) for _ in range(4)),
            max_attempts=jitter.choice([1, 2, 3]),
            retry_elsewhere=jitter.choice(list(RetryScope)),
        )
        for _ in range(6)
    ]
    clients = {group.id: connect(group) for group in made}
    broke: list[BaseException] = []
    until = time.monotonic() + FOR
    threads = [running(driver.step, until, broke) for driver in drivers]
    threads += [running(driver.housekeep, until, broke, 0.02) for driver in drivers]
    threads += [running(lambda: use(jitter), until, broke, 0.02) for _ in range(2)]
    for thread in threads:
        thread.join()
    if broke:
        raise broke[0]
    drive_to_the_end(drivers)
    for group in made:
        assert factories.fresh(group).completed_at is not None, "it never ends"
        assert_ended_once(group)
        assert_law(clients[group.id])
    assert_executed_once()


def assert_ended_once(group: JobGroup) -> None:
    """Check that each run ends each of its children once, and then itself.

    A child that a user retried within the run ends once more for each retry.
    """
    log = factories.log(group)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    ends = Counter((event["run"], event["job_id"]) for event in log if event["type"] in FINAL)
    # One that failed in an earlier run, and joins this one, has not ended in it before.
    ended: set[tuple[int, str]] = set()
    for event in log:
        if event["type"] in FINAL:
            ended.add((event["run"], event["job_id"]))
        elif is_retry_of_failed(event) and (event["run"], event["job_id"]) in ended:
            ends[event["run"], event["job_id"]] -= 1
    assert set(ends.values()) == {1}
    completes = [event["run"] for event in log if event["type"] == "group_complete"]
    assert completes == list(range(1, factories.fresh(group).run + 1))
    last_of_run = {event["run"]: event["type"] for event in log}
    assert set(last_of_run.values()) == {"group_complete"}


def is_retry_of_failed(event: dict[str, Any]) -> bool:
    """Whether a user retried a failed child within a run; a move has no failure class."""
    return bool(
        event["type"] == "child_retrying" and event["requested_by"] and event["failure_class"]
    )


def assert_executed_once() -> None:
    """Check that no child was sent again that had its result, or whose prompt might yet run."""
    for child in ChildJob.objects.all():
        rows = list(child.attempts.order_by("number"))
        charged = Counter(row.run for row in rows if row.is_counted and row.ended_at)
        retried = filter(is_retry_of_failed, factories.log(child.group))
        more = Counter((event["run"], event["job_id"]) for event in retried)
        for run, count in charged.items():
            assert count <= child.group.max_attempts + more[run, child.id], charged
        for at, newer in enumerate(rows):
            for older in rows[:at]:
                assert older.ended_at is not None
                overtaken = older.stop_requested_at is not None and (
                    older.failure_class in OVERTAKEN or older.state == AttemptState.SUCCESS
                )
                assert older.ended_at <= newer.created_at or overtaken
                if older.state == AttemptState.SUCCESS and older.failure_class == "":
                    assert newer.created_at <= older.ended_at, "it had its result"
