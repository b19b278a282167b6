"""Sets of writes to attempts: what they store is what the services store alone, and what is not
plain is left to these.
"""

import contextlib
import datetime as dt
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Model
from hypothesis import Phase, example, given, settings, strategies as st

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.exclusions import ExclusionKind
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import AttemptState, PartialOutputs
from jobgroups.errors import GroupEnded, LeaseLost, SetRefused
from jobgroups.models import (
    AbandonedPrompt,
    Attempt,
    Capture,
    ChildJob,
    Exclusion,
    JobEvent,
    JobGroup,
    Notice,
    ReportedFile,
    Variant,
    WebhookDelivery,
)
from jobgroups.services import attempt_sets, attempts, cancellation, pauses
from jobgroups.services.attempt_sets import AttemptWrite, attempts_store
from jobgroups.services.claim_sets import claims_store
from jobgroups.services.claims import ClaimRequest, ClaimResult
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.races import race, started

pytestmark = pytest.mark.django_db(transaction=True)

BACKENDS = 3
TABLES: tuple[type[Model], ...] = (
    *(
        Backend,
        JobGroup,
        ChildJob,
        Attempt,
        JobEvent,
        ReportedFile,
        Capture,
        WebhookDelivery,
        Notice,
    ),
    *(AbandonedPrompt, Exclusion, Variant),
)
#: What groups are submitted with: the plain case, and what may keep an end from being plain.
GROUPS: tuple[dict[str, Any], ...] = (
    {},
    {"stop_when": {"completed": 1}},
    {"partial_outputs": PartialOutputs.FAIL},
    {"webhook": {"url": "http://hooks.test/", "events": ["child_completed", "group_complete"]}},
    {"max_attempts": 2},
    {"runner_alive": False},
    {"max_running": 2},
)
POOL = len(GROUPS)  #: The number of a group whose jobs wait in the pool.
#: What ComfyUI may answer to a POST.
ANSWERS: tuple[dict[str, Any], ...] = (
    *[{"node_errors": {}}] * 4,
    {"node_errors": {"9": {"errors": [], "class_type": "SaveImage"}}},
    {"node_errors": None},
    {"prompt_id": "chosen", "node_errors": {}},
)
#: The ends of a prompt: the kind, the number of the file, and whether the node that names it was
#: executed.
ENDS = st.tuples(
    st.sampled_from(["success"] * 5 + ["error", "unseen", "gone"]), st.integers(0, 9), st.booleans()
)
#: Mostly what follows in the life of an attempt.
KINDS = ["next"] * 7 + ["accept", "start", "end", "stale"]
WRITES = st.tuples(st.sampled_from(KINDS), st.sampled_from(ANSWERS), ENDS)
#: Of a claim: the backend, which group of the pool it chose, whether its lease is lost, and the
#: group whose bound job comes before the pool ("": none does; None: the older of both is first).
CLAIMS = st.tuples(
    st.integers(0, BACKENDS - 1),
    st.integers(0, 3),
    st.sampled_from([False] * 7 + [True]),
    st.sampled_from([None, "", 0, 1, 2]),
)
STEPS = st.one_of(
    *[st.tuples(st.just("claims"), st.lists(CLAIMS, min_size=1, max_size=4))] * 3,
    st.tuples(st.just("cancel"), st.integers(0, 11)),
    st.tuples(st.just("delay"), st.tuples(st.integers(0, 11), st.sampled_from([-60, 0, 60]))),
    st.tuples(st.just("hold"), st.tuples(st.integers(0, BACKENDS - 1), st.booleans())),
    st.tuples(st.just("pause"), st.tuples(st.integers(0, 2), st.booleans())),
    st.tuples(st.just("exclude"), st.integers(0, BACKENDS - 1)),
    st.tuples(st.just("uncertain"), st.integers(0, 11)),
    st.tuples(st.just("probation"), st.integers(0, BACKENDS - 1)),
    *[
        st.tuples(
            st.just("set"), st.lists(st.tuples(st.integers(0, 11), WRITES), min_size=1, max_size=6)
        )
    ]
    * 4,
)
Step = tuple[str, Any]


def end_of(kind: str, file: int, executed: bool) -> AttemptResult:
    named = {"images": [{"filename": f"a_{file}.png", "subfolder": "", "type": "output"}]}
    shown = {"images": [{**named["images"][0], "url": "http://gpu.test/view"}]}
    result: dict[str, Any] = {
        "outputs": shown,
        "node_outputs": {"9": named},
        "last_step": ("3", 20, 20),
    }
    if executed:
        result |= {"executed": frozenset({"9"}), "origins": {"9": "of-9"}, "seconds": 0.0}
    result["execution"] = {"outputs_reused": not executed}
    if kind == "error":
        return factories.end(AttemptState.ERROR, failure=FailureClass.NODE_ERROR, **result)
    if kind == "unseen":
        return factories.end(last_step=None, execution={}, outputs=shown)
    if kind == "gone":
        return factories.end(**result, failure=FailureClass.OUTPUT_GONE, error_message="gone")
    return factories.end(**result)


class Course:
    """One run of a history. Alone: each write by its service; else in sets, and what they leave by
    its service.
    """

    def __init__(self, taken: list[list[bool]] | None = None) -> None:
        self.alone = taken is not None
        self.taken: list[list[bool]] = taken or []  #: Of each set: which writes it took.
        self.results: list[Any] = []
        self._sets = iter(list(self.taken))
        self.fences = factories.farm(BACKENDS)
        self.claimed: list[tuple[FencingToken, Attempt]] = []

    def run(self, groups: list[int], steps: list[Step]) -> None:
        for number in groups:
            if number == POOL:
                factories.submit_to_pool(4, base_seed=1, seed_strategy="sequential")
            else:
                factories.submit(
                    *(fence.backend_id for fence in self.fences),
                    "gpu-1",
                    base_seed=1,
                    seed_strategy="sequential",
                    **GROUPS[number],
                )
        self.claims([(number, 0, False, None) for number in range(BACKENDS)])
        for kind, value in steps:
            getattr(self, kind)(value)

    def claims(self, of_backends: list[tuple[int, int, bool, int | str | None]]) -> None:
        requests = [self._request(*of) for of in {of[0]: of for of in of_backends}.values()]
        self._in_sets(requests, lambda: claims_store(requests=requests), self._note)

    def _request(
        self, number: int, chosen: int, is_lost: bool, first: int | str | None
    ) -> ClaimRequest:
        fence = self.fences[number]
        if is_lost:
            fence = FencingToken(fence.backend_id, fence.epoch + 1)
        in_pool = list(JobGroup.objects.filter(placement="pool").order_by("created_at"))
        choice = factories.pool_choice(in_pool[chosen % len(in_pool)]) if in_pool else None
        if isinstance(first, int):
            groups = list(JobGroup.objects.order_by("created_at"))
            first = groups[first % len(groups)].pk
        return ClaimRequest(fence=fence, client_id="s", depth=3, choice=choice, bound_first=first)

    def _note(self, result: Any) -> Any:
        if not isinstance(result, ClaimResult):
            return type(result).__name__
        if result.claim is not None:
            attempt = Attempt.objects.select_related("child").get(pk=result.claim.pk)
            number = int(attempt.backend_id.removeprefix("gpu-")) - 1
            self.claimed.append((self.fences[number], attempt))
        return result.claim is not None, result.from_pool, result.in_vain

    def delay(self, value: tuple[int, int]) -> None:
        number, seconds = value
        children = list(ChildJob.objects.order_by("group__created_at", "position"))
        moment = now() + dt.timedelta(seconds=seconds)
        ChildJob.objects.filter(pk=children[number % len(children)].pk).update(not_before=moment)

    def pause(self, value: tuple[int, bool]) -> None:
        number, is_paused = value
        groups = list(JobGroup.objects.order_by("created_at"))
        change = pauses.group_pause if is_paused else pauses.group_resume
        with contextlib.suppress(GroupEnded):
            change(group_id=groups[number % len(groups)].pk)

    def hold(self, value: tuple[int, bool]) -> None:
        number, is_held = value
        Backend.objects.filter(pk=self.fences[number].backend_id).update(
            hold="pause" if is_held else ""
        )

    def exclude(self, number: int) -> None:
        if variant := Variant.objects.first():
            Exclusion.objects.get_or_create(
                backend_id=self.fences[number].backend_id,
                workflow_digest=variant.workflow_digest,
                kind=ExclusionKind.MISSING,
                variant_id=0,
                defaults={"count": 1, "since": now(), "last_at": now()},
            )

    def cancel(self, number: int) -> None:
        children = list(ChildJob.objects.order_by("group__created_at", "position"))
        if number < len(children):
            cancellation.child_cancel(
                group_id=children[number].group_id, job_id=children[number].pk
            )

    def uncertain(self, number: int) -> None:
        if not self.claimed:
            return
        fence, attempt = self.claimed[number % len(self.claimed)]
        if Attempt.objects.get(pk=attempt.pk).state == AttemptState.INTENT:
            attempts.attempt_uncertain(
                attempt_id=attempt.pk, fence=fence, message="Odd.", details={"status": 200}
            )

    def probation(self, number: int) -> None:
        Backend.objects.filter(pk=self.fences[number].backend_id).update(consecutive_quarantines=2)

    def set(self, some: list[tuple[int, Any]]) -> None:
        if not self.claimed:
            return
        named = {number % len(self.claimed): what for number, what in some}
        writes = [self._write(*self.claimed[number], *what) for number, what in named.items()]
        self._in_sets(writes, lambda: attempts_store(writes=writes), _shown)

    def _in_sets(
        self, writes: list[Any], store: Callable[[], dict[Any, Any]], shown: Callable[[Any], Any]
    ) -> None:
        """Store some writes at once, and those that are left out alone; or all alone, in the same
        order.
        """
        if self.alone:
            taken = next(self._sets)
            results: dict[Any, Any] = {}
        else:
            results = store()
            taken = [write in results for write in writes]
            self.taken.append(taken)
        for is_later in (False, True):
            for write, was_taken in zip(writes, taken, strict=True):
                if was_taken is not is_later:
                    self.results.append(
                        shown(results[write] if write in results else _outcome(write))
                    )

    def _write(
        self, fence: FencingToken, attempt: Attempt, kind: str, answer: Any, end: Any
    ) -> AttemptWrite:
        group_id = attempt.child.group_id
        if kind == "next":
            state = AttemptState(Attempt.objects.get(pk=attempt.pk).state)
            kind = {AttemptState.INTENT: "accept", AttemptState.ACCEPTED: "start"}.get(state, "end")
        if kind == "stale":
            return AttemptWrite(
                attempts.attempt_started,
                FencingToken(fence.backend_id, fence.epoch + 1),
                group_id,
                attempt.pk,
                {},
            )
        if kind == "accept":
            answer = (
                {**answer, "prompt_id": f"chosen-{attempt.pk}"} if "prompt_id" in answer else answer
            )
            # Whether a sign of execution came meanwhile.
            answer = {**answer, "has_started": lambda: end[2]}
            return AttemptWrite(attempts.attempt_accepted, fence, group_id, attempt.pk, answer)
        if kind == "start":
            return AttemptWrite(attempts.attempt_started, fence, group_id, attempt.pk, {})
        return AttemptWrite(
            attempts.attempt_ended, fence, group_id, attempt.pk, {"end": end_of(*end)}
        )


def _outcome(write: AttemptWrite | ClaimRequest) -> Any:
    try:
        return write.store_alone()
    except LeaseLost as lost:
        return lost


def _shown(result: Any) -> Any:
    if isinstance(result, Attempt):
        return result.state, result.stop_requested_at is not None
    return type(result).__name__ if isinstance(result, Exception) else result


def _names() -> dict[Any, str]:
    """Return names for random ids and keys that two runs have in common."""
    names: dict[Any, str] = {}
    for number, group in enumerate(JobGroup.objects.order_by("created_at", "id")):
        names[group.pk] = f"group {number}"
        for child in group.children.order_by("position"):
            names[child.pk] = f"group {number}, job {child.position}"
    for number, attempt in enumerate(Attempt.objects.order_by("pk")):
        names[attempt.pk] = names[attempt.prompt_id] = f"attempt {number}"
    return names


def _plain(names: dict[Any, str], column: str, value: Any) -> Any:
    if column == "id" and isinstance(value, int):
        return None
    if column in ("attempt_id", "current_attempt_id"):
        return names.get(value)
    if column == "variant_id":
        return bool(value)
    if isinstance(value, dt.datetime):
        return "a time"
    if not isinstance(value, str):
        return value
    for key, name in names.items():
        value = value.replace(str(key), name) if isinstance(key, str) else value
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|msg_\w{24}|took [^.,]*", "…", value)


def tables() -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables."""
    names = _names()
    found = {}
    for model in TABLES:
        rows = [
            # The number of a change is only to be larger than that of the answers before.
            {name: _plain(names, name, value) for name, value in row.items() if name != "changed"}
            for row in model.objects.values()
        ]
        found[model.__name__] = sorted(
            rows, key=lambda row: json.dumps(row, default=str, sort_keys=True)
        )
    return found


def _rolled_back(work: Callable[[], Any]) -> Any:
    with transaction.atomic():
        result = work()
        transaction.set_rollback(True)
    return result


@settings(
    max_examples=settings().max_examples // 4, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
@given(
    st.lists(st.integers(0, POOL), min_size=1, max_size=3), st.lists(STEPS, min_size=6, max_size=20)
)
# The first success of a group stops the rest of it.
@example(
    [1], [("set", [(0, (kind, ANSWERS[0], ("success", 0, True)))]) for kind in ("accept", "end")]
)
def test_sets_store_what_the_services_store_alone(groups: list[int], steps: list[Step]) -> None:
    def course(taken: list[list[bool]] | None = None) -> tuple[Any, Any, list[list[bool]]]:
        made = Course(taken)
        made.run(groups, steps)
        return tables(), made.results, made.taken

    in_sets = _rolled_back(course)
    alone = _rolled_back(partial(course, in_sets[2]))
    assert in_sets[1] == alone[1]
    for table, rows in in_sets[0].items():
        for row, other in zip(rows, alone[0][table], strict=True):
            assert row == other, table


def ended(fence: FencingToken, attempt: Attempt, file: int = 0) -> AttemptWrite:
    fields = {"end": end_of("success", file, executed=True)}
    return AttemptWrite(attempts.attempt_ended, fence, attempt.child.group_id, attempt.pk, fields)


def begun(count: int) -> list[tuple[FencingToken, Attempt]]:
    """Start a job of a group of its own on each of some backends."""
    fences = factories.farm(count)
    return [(fence, factories.running(fence)[1]) for fence in fences]


def test_events_of_a_set_are_numbered_in_the_order_of_its_writes() -> None:
    fences = factories.farm(3)
    group = factories.submit(*(fence.backend_id for fence in fences))
    jobs = [(fence, factories.begin(fence)) for fence in fences]
    attempts_store(writes=[ended(*job) for job in reversed(jobs)])
    events = factories.log(group)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    last = [event["backend_id"] for event in events if event["type"] == "child_completed"]
    assert last == ["gpu-3", "gpu-2", "gpu-1"]
    assert events[-1]["type"] == "group_complete"


def test_second_report_of_a_file_in_a_set_is_left_to_the_service(fence: FencingToken) -> None:
    writes = [ended(fence, factories.running(fence)[1]) for _ in range(2)]
    assert attempts_store(writes=writes) == {writes[0]: True}
    assert writes[1].store_alone()
    assert [row.executed for row in ReportedFile.objects.all()] == [True]


def test_attempt_whose_stop_is_pending_is_left_to_the_service(fence: FencingToken) -> None:
    group, claimed = factories.claiming(fence)
    cancellation.group_cancel(group_id=group.pk)
    answer = {"node_errors": {}}
    write = AttemptWrite(attempts.attempt_accepted, fence, group.pk, claimed.pk, answer)
    assert attempts_store(writes=[write]) == {}
    assert write.store_alone().stop_requested_at is not None


def report_the_file() -> None:
    (digest,) = attempt_sets.outcomes.files_of("gpu-2", end_of("success", 0, executed=True))[0]
    attempt = Attempt.objects.get(backend_id="gpu-1")
    ReportedFile.objects.create(attempt=attempt, digest=digest, executed=True)


def cancel_a_job() -> None:
    ChildJob.objects.filter(backend_id="gpu-2").update(status="cancelled", completed_at=now())


@pytest.mark.parametrize("change", [report_the_file, cancel_a_job])
def test_set_of_contradicted_rows_stores_nothing(
    change: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction changes rows after the set has read them."""
    jobs = begun(2)
    read = attempt_sets.store.reports_of

    def late(digests: Any) -> Any:
        found = read(digests)
        change()
        return found

    monkeypatch.setattr(attempt_sets.store, "reports_of", late)
    with pytest.raises(SetRefused):
        attempts_store(writes=[ended(*job) for job in jobs])
    assert not Attempt.objects.filter(ended_at__isnull=False).exists()
    assert not JobEvent.objects.filter(type="child_completed").exists()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer")
def test_group_that_another_transaction_has_locked_is_left_out() -> None:
    jobs = begun(2)
    writes = [ended(*job) for job in jobs]
    results: list[Any] = []
    with group_transaction(writes[0].group_id):
        started(lambda: results.append(attempts_store(writes=writes))).join(20)
    assert results == [{writes[1]: True}]


def _store_all(writes: list[AttemptWrite]) -> None:
    results = attempts_store(writes=writes)
    for write in writes:
        if write not in results:
            write.store_alone()


@pytest.mark.parametrize("_", range(5))
def test_set_and_a_cancel_at_once_leave_no_job_open(_: int) -> None:
    jobs = begun(4)
    group = jobs[0][1].child.group
    race(
        partial(_store_all, [ended(*job) for job in jobs]),
        partial(cancellation.group_cancel, group_id=group.id),
    )
    assert not Attempt.objects.filter(ended_at=None).exists()
    assert set(ChildJob.objects.values_list("status", flat=True)) <= {"completed", "cancelled"}
    assert [event["seq"] for event in factories.log(group)] == list(
        range(1, group.events.count() + 1)
    )
