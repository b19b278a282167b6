"""A kept answer that is patched with the jobs that changed equals one that reads all, after every
write of a history.
"""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from backends.errors import RequestError
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt, Capture, ChildJob, JobGroup, ReportedFile, StoredFile
from jobgroups.queries.group_status import GroupAnswer, read_status
from jobgroups.services import captures, file_hashes, files, groups, moves, retries
from jobgroups.services.cancellation import child_cancel, group_cancel
from jobgroups.services.progress import ProgressRow, progress_flush
from jobgroups.services.stars import child_star
from tests.db.test_captures import _store
from tests.db.test_files import end
from tests.db.test_group_status import _plain
from tests.harness import factories
from tests.harness.database_work import database_work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


#: How often a write is tried, beside 1 of the others: a job is to end, and its files to be copied,
#: before all are cancelled.
_OFTEN = {
    "do_claim": 12.0,
    "do_complete": 12.0,
    "do_store": 6.0,
    "do_hash": 3.0,
    "do_retry": 2.0,
    "do_progress": 3.0,
}
_SELDOM = {
    "do_cancel": 0.05,
    "do_cancel_a_job": 0.2,
    "do_change_group": 0.5,
    "do_move": 0.3,
    "do_lose": 0.3,
}


class _History:
    """Writes at random, which services make, to one group."""

    def __init__(self, seed: int, *, is_pool: bool) -> None:
        self._random = random.Random(seed)
        self._fences = factories.farm(3)
        names = [fence.backend_id for fence in self._fences]
        if is_pool:
            self.group = factories.submit_to_pool(5, max_attempts=2)
        else:
            self.group = factories.submit(*names, *names[:2], max_attempts=2)
        self._is_pool = is_pool

    def write(self) -> str:
        """Make one write that is possible now, and return its name; one that is not changes
        nothing.
        """
        while True:
            names = [name for name in dir(self) if name.startswith("do_")]
            weights = [{**_OFTEN, **_SELDOM}.get(name, 1.0) for name in names]
            (name,) = self._random.choices(names, weights)
            with contextlib.suppress(RequestError, IndexError):
                getattr(self, name)()
                return name

    def _child(self, **of: Any) -> ChildJob:
        return self._random.choice(list(self.group.children.filter(**of).order_by("position")))

    def _attempt(self, **of: Any) -> tuple[Attempt, Any]:
        rows = Attempt.objects.filter(child__group=self.group, ended_at__isnull=True, **of)
        attempt = self._random.choice(list(rows.order_by("id")))
        return attempt, next(one for one in self._fences if one.backend_id == attempt.backend_id)

    def _capture(self, **of: Any) -> Capture:
        return self._random.choice(
            list(Capture.objects.filter(child__group=self.group, **of).order_by("id"))
        )

    def do_claim(self) -> None:
        fence = self._random.choice(self._fences)
        if self._is_pool:
            claimed = factories.claim_from_pool(fence, self.group) if self._waits() else None
        else:
            claimed = None if factories.idle(fence, depth=1) else Attempt.objects.latest("id")
        if claimed is None:
            raise IndexError("There is nothing to claim.")
        if self._random.random() < 0.8:
            factories.start(claimed, fence)

    def _waits(self) -> bool:
        fit = self.group.children.filter(
            status="queued", current_attempt=None, not_before=None, is_bound=False
        )
        return fit.exists() and not Attempt.objects.filter(ended_at__isnull=True).exists()

    def do_start(self) -> None:
        factories.start(*self._attempt(state=AttemptState.INTENT))

    def do_complete(self) -> None:
        name = f"{self._random.randrange(3)}.png"
        end(
            *self._attempt(state=AttemptState.RUNNING),
            {"filename": name},
            {"filename": f"b_{name}"},
        )

    def do_fail(self) -> None:
        factories.fail(*self._attempt(state=AttemptState.RUNNING))

    def do_lose(self) -> None:
        factories.lose(*self._attempt())

    def do_time_out(self) -> None:
        factories.time_out(*self._attempt(state=AttemptState.RUNNING))

    def do_progress(self) -> None:
        child = self._child(status="running")
        row = ProgressRow(
            child.id, child.current_attempt_id or 0, self._random.uniform(0, 99), "KSampler", 10, 20
        )
        progress_flush(rows=[row])

    def do_star(self) -> None:
        child_star(
            group_id=self.group.id, job_id=self._child().id, starred=self._random.random() < 0.5
        )

    def do_store(self) -> None:
        _store(self._capture(due_at__isnull=False), self._random.choice([b"cat", b"dog", b"owl"]))

    def do_postpone(self) -> None:
        captures.capture_postpone(
            capture_id=self._capture().pk, first=1, longest=9, reason="The backend is away."
        )

    def do_give_up(self) -> None:
        captures.capture_give_up(capture_id=self._capture().pk, reason="There is no such file.")

    def do_warn(self) -> None:
        captures.capture_warn(
            capture_id=self._capture().pk, reason=f"Doubtful {self._random.random()}."
        )

    def do_request_captures(self) -> None:
        if self._random.random() < 0.5:
            Capture.objects.filter(child__group=self.group).delete()
        captures.captures_request(group_id=self.group.id)

    def do_hash(self) -> None:
        file = self._random.choice(list(StoredFile.objects.order_by("id")))
        file_hashes.file_hashes_store({file.pk: f"{self._random.getrandbits(256):064x}"})

    def do_replace(self) -> None:
        child = self._child(status="completed")
        reported = self._random.choice(
            list(ReportedFile.objects.filter(attempt=child.current_attempt_id))
        )
        files.output_replaced(job_id=child.id, digest=reported.digest)

    def do_change_group(self) -> None:
        groups.group_change(group_id=self.group.id, name=f"name {self._random.random()}")

    def do_move(self) -> None:
        moves.child_move(
            group_id=self.group.id, job_id=self._child().id, backend_id=self._fences[0].backend_id
        )

    def do_cancel_a_job(self) -> None:
        child_cancel(group_id=self.group.id, job_id=self._child().id)

    def do_cancel(self) -> None:
        group_cancel(group_id=self.group.id)

    def do_retry(self) -> None:
        retries.group_retry(group_id=self.group.id)

    def do_change_a_row(self) -> None:
        """Change a row as the previous release does, without a revision."""
        ChildJob.objects.filter(pk=self._child().pk).update(starred=True)


@pytest.mark.parametrize("is_pool", [False, True], ids=["bound", "pool"])
@pytest.mark.parametrize("seed", range(3))
def test_kept_answer_equals_a_fresh_one_after_every_write(seed: int, is_pool: bool) -> None:
    history = _History(seed, is_pool=is_pool)
    kept = read_status(history.group.id, None)
    written = []
    for _ in range(60):
        written.append(history.write())
        kept = read_status(history.group.id, kept)
        assert _plain(kept.body) == _plain(read_status(history.group.id, None).body), written
    assert {"do_complete", "do_store", "do_hash"} <= set(written)


def _steps(read: Callable[[], GroupAnswer]) -> tuple[GroupAnswer, int]:
    with database_work() as work:
        answer = read()
    return answer, work.steps


def test_few_rows_are_read_of_a_group_of_which_one_job_changed() -> None:
    factories.farm(1)
    group = factories.submit(*["gpu-1"] * 300)
    group_cancel(group_id=group.id)
    kept, whole = _steps(lambda: read_status(group.id, None))
    job = group.children.get(position=200)
    child_star(group_id=group.id, job_id=job.id, starred=True)
    patched, part = _steps(lambda: read_status(group.id, kept))
    assert [
        at
        for at, (one, other) in enumerate(zip(patched.jobs, kept.jobs, strict=True))
        if one is not other
    ] == [200]
    if connection.vendor == "sqlite":
        assert part < whole / 4


def test_answer_is_kept_over_an_update_of_which_the_group_does_not_know(
    files_folder: object,
) -> None:
    """A trigger numbers a change that no service made."""
    fence = factories.online()
    group, claimed = factories.running(fence)
    end(claimed, fence)
    kept = read_status(group.id, None)
    Capture.objects.filter(child__group=group).update(reason="It was doubtful.")
    after = read_status(group.id, kept)
    assert (after.version, after.body == kept.body) == (kept.version, False)
    assert JobGroup.objects.get().revision == kept.version[1]
