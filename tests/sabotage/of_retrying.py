"""Breakages of a person's retry: what is done rendered again, two runs at once, a picture thrown away."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_RETRIES = "jobgroups/services/retries.py"
_TESTS = "tests/db/test_retries.py"
_IN_RUN = "tests/db/test_retries_within_a_run.py"
_MOVES = "tests/db/test_moves.py"

OF_RETRYING: tuple[Breakage, ...] = (
    Breakage(
        name="retry of what is done",
        broken="A retry queues whatever child is named, also one that completed.",
        hurts="Somebody's finished picture is thrown away and rendered again.",
        edits=(
            Edit("jobgroups/domain/states.py", "CHILD_FINAL - {ChildStatus.COMPLETED}", "CHILD_FINAL"),
            Edit(_RETRIES, "    if completed:\n", "    if False:\n"),
        ),
        notices=f"{_TESTS}::test_retry_of_completed_jobs_is_refused",
    ),
    Breakage(
        name="retry of what goes on",
        broken="A group is retried although it has not ended.",
        hurts="Two clicks open two runs, and the first one never ends for those who watch it.",
        edits=(Edit(_RETRIES, "    if tx.group.completed_at is None:\n", "    if False:\n"),),
        notices=f"{_TESTS}::test_retry_of_an_unfinished_group_is_refused",
    ),
    Breakage(
        name="late result not adopted",
        broken="A retry looks at no earlier attempt of its children.",
        hurts="A picture that is there already is rendered a second time.",
        edits=(Edit(_RETRIES, "    results = late_results.late_results(chosen)\n", "    results = {}\n"),),
        notices=f"{_TESTS}::test_retry_adopts_a_late_result",
    ),
    Breakage(
        name="cancel mark kept",
        broken="The next run keeps the cancel of the one before.",
        hurts="A group that renders is shown as cancelled, and ends so though all of it is done.",
        edits=(Edit("jobgroups/services/group_transaction.py", "        self.group.cancelled_at = None\n", ""),),
        notices=f"{_TESTS}::test_retry_of_a_cancelled_group_requeues_cancelled_jobs",
    ),
    Breakage(
        name="a day's wait kept",
        broken="A retried child counts its wait from the first run.",
        hurts="What is retried on the next morning times out before anything is sent.",
        edits=(
            Edit("jobgroups/services/group_transaction.py", '"queued_at": moment,', '"queued_at": child.queued_at,'),
        ),
        notices=f"{_TESTS}::test_retry_resets_everything_but_the_attempts",
    ),
    Breakage(
        name="retry not told",
        broken="A retry records no event.",
        hurts="Pages that are open show the old failures until their children run.",
        edits=(
            Edit(_RETRIES, "        tx.add_event(log.group_reopened(tx.group, chosen, by=by))\n", "        pass\n"),
        ),
        notices=f"{_TESTS}::test_each_run_ends_with_its_own_group_complete",
    ),
    Breakage(
        name="bound to a backend that takes nothing",
        broken="A retry does not look whether a child's backend takes anything.",
        hurts="The retried child fails at once, or waits for a machine that nobody will turn on.",
        edits=(
            Edit(
                "jobgroups/services/assignment.py",
                "        if target is None and own in unschedulable:\n",
                "        if False:\n",
            ),
        ),
        notices="tests/db/test_retries_elsewhere.py::test_retry_at_an_unschedulable_backend_is_refused_with_advice",
    ),
    Breakage(
        name="a new run for one job",
        broken="A retry of one job of a running group opens the next run.",
        hurts="The run has no end for its watchers: its group_complete never comes.",
        edits=(Edit(_RETRIES, "    opens_run = tx.group.completed_at is not None\n", "    opens_run = True\n"),),
        notices=f"{_IN_RUN}::test_failed_job_is_retried_while_its_group_runs",
    ),
    Breakage(
        name="any job retried while its group runs",
        broken="While its group runs, a retry queues a job that waits, runs or was cancelled.",
        hurts="A cancelled job is rendered although its user cancelled it.",
        edits=(
            Edit(
                _RETRIES,
                "        if is_open and chosen[0].status not in CHILD_RETRIED_IN_RUN:\n",
                "        if False:\n",
            ),
        ),
        notices=f"{_IN_RUN}::test_cancelled_job_is_not_retried_within_its_run",
    ),
    Breakage(
        name="moved without removal",
        broken="A move requests no removal of the prompt at the old backend.",
        hurts="The job is never sent to its new backend, or two backends render it.",
        edits=(Edit("jobgroups/services/moves.py", "        tx.request_stop([attempt.pk], StopReason.MOVED)\n", ""),),
        notices=f"{_MOVES}::test_moved_job_is_sent_after_its_accepted_prompt_is_removed",
    ),
    Breakage(
        name="started and moved all the same",
        broken="A prompt that starts before its removal is stopped for the move.",
        hurts="A render is interrupted because a person moved a job that seemed to wait.",
        edits=(
            Edit(
                "jobgroups/services/attempts.py",
                "            if attempt.stop_reason == StopReason.MOVED:\n",
                "            if False:\n",
            ),
        ),
        notices=f"{_MOVES}::test_move_is_void_when_the_prompt_starts_before_its_removal",
    ),
    Breakage(
        name="stopped by an old reading",
        broken="A prompt is interrupted although its stop is no longer stored.",
        hurts="A job whose move was void fails as if a user had interrupted it.",
        edits=(
            Edit(
                "jobgroups/runner/attempt/driver.py",
                "            if not await self._stop_is_in_rows():\n",
                "            if False:\n",
            ),
        ),
        notices="tests/runner/test_moved.py::test_a_stop_that_was_read_before_its_move_was_void_stops_nothing",
    ),
)
