"""Breakages of retries and moves by users."""

from tests.sabotage.breakage import Breakage, Edit

OF_RETRIES: tuple[Breakage, ...] = (
    Breakage(
        "A retry accepts a completed job.",
        "A finished image is discarded and rendered again.",
        "db/test_retries.py::test_retry_of_completed_jobs_is_refused",
        Edit("jobgroups/domain/states.py", "CHILD_FINAL - {ChildStatus.COMPLETED}", "CHILD_FINAL"),
        Edit("jobgroups/services/retries.py", "if completed:", "if False:"),
    ),
    Breakage(
        "A group is retried although it has not ended.",
        "Two clicks open two runs, and the first one never ends for its watchers.",
        "db/test_retries.py::test_retry_of_an_unfinished_group_is_refused",
        Edit("jobgroups/services/retries.py", "if tx.group.completed_at is None:", "if False:"),
    ),
    Breakage(
        "A retry ignores late results of earlier attempts.",
        "An image that exists is rendered a second time.",
        "db/test_retries.py::test_retry_adopts_a_late_result",
        Edit("jobgroups/services/retries.py", "results = late_results.late_results(chosen)", "results = {}"),
    ),
    Breakage(
        "The next run keeps the cancel of the run before.",
        "A running group is shown as cancelled, and ends so although all its jobs complete.",
        "db/test_retries.py::test_retry_of_a_cancelled_group_requeues_cancelled_jobs",
        Edit("jobgroups/services/group_transaction.py", "        self.group.cancelled_at = None\n", ""),
    ),
    Breakage(
        "A retried job counts its queued time from the first run.",
        "A retry on the next morning times out before the job is sent.",
        "db/test_retries.py::test_retry_resets_everything_but_the_attempts",
        Edit("jobgroups/services/group_transaction.py", '"queued_at": moment,', '"queued_at": child.queued_at,'),
    ),
    Breakage(
        "A retry adds no event.",
        "Open pages show the old failures until the jobs run.",
        "db/test_retries.py::test_each_run_ends_with_its_own_group_complete",
        Edit("jobgroups/services/retries.py", "tx.add_event(log.group_reopened(tx.group, chosen, by=by))", "pass"),
    ),
    Breakage(
        "A retry does not check whether the job's backend is usable.",
        "The job fails at once, or waits for a disabled backend.",
        "db/test_retries_elsewhere.py::test_retry_at_an_unschedulable_backend_is_refused_with_advice",
        Edit("jobgroups/services/assignment.py", "if target is None and own in unschedulable:", "if False:"),
    ),
    Breakage(
        "A retry of one job of a running group opens the next run.",
        "Watchers of the run never get its `group_complete`.",
        "db/test_retries_within_a_run.py::test_failed_job_is_retried_while_its_group_runs",
        Edit("jobgroups/services/retries.py", "opens_run = tx.group.completed_at is not None", "opens_run = True"),
    ),
    Breakage(
        "While its group runs, a retry accepts a queued, running or cancelled job.",
        "A cancelled job is executed although its user cancelled it.",
        "db/test_retries_within_a_run.py::test_cancelled_job_is_not_retried_within_its_run",
        Edit("jobgroups/services/retries.py", "is_open and chosen[0].status not in CHILD_RETRIED_IN_RUN", "False"),
    ),
    Breakage(
        "A move does not request the removal of the prompt at the old backend.",
        "The job is never sent to its new backend, or two backends execute it.",
        "db/test_moves.py::test_moved_job_is_sent_after_its_accepted_prompt_is_removed",
        Edit("jobgroups/services/moves.py", "        tx.request_stop([attempt.pk], StopReason.MOVED)\n", ""),
    ),
    Breakage(
        "A prompt that starts before its removal is stopped for the move.",
        "A running render is interrupted because a user moved a job that seemed to wait.",
        "db/test_moves.py::test_move_is_void_when_the_prompt_starts_before_its_removal",
        Edit("jobgroups/services/attempts.py", "if attempt.stop_reason in VOID_ONCE_STARTED:", "if False:"),
    ),
    Breakage(
        "A prompt is interrupted although its pending stop was withdrawn.",
        "A job whose move was void fails as if a user had interrupted it.",
        "runner/test_moved.py::test_a_stop_that_was_read_before_its_move_was_void_stops_nothing",
        Edit("jobgroups/runner/attempt/driver.py", "if not await self._stop_is_in_rows():", "if False:"),
    ),
)
