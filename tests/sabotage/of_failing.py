"""Breakages of what is done about failures: tried too often, too early, in the wrong place, or not at all."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_FAILED = "jobgroups/services/outcomes.py"
_ATTEMPTS = "jobgroups/services/attempts.py"
_PLACES = "jobgroups/services/candidates.py"
_RETRYING = "jobgroups/domain/retry_policy.py"
_CLAIMS = "jobgroups/services/claims.py"
_RUNNER_ATTEMPT = "jobgroups/runner/attempt/driver.py"
_IN_RUN = "tests/db/test_retry_in_run.py"
_FARM = "tests/runner/test_retry_elsewhere.py"
_OUTAGES = "tests/runner/test_outages.py"
_PURE = "tests/unit/test_retrying.py"

OF_FAILING: tuple[Breakage, ...] = (
    Breakage(
        name="attempts not counted",
        broken="The attempts of a run are not counted.",
        hurts="A workflow that always fails is rendered again until somebody notices.",
        edits=(
            Edit(
                "jobgroups/services/requeue.py",
                "return child.attempts.filter(over, run=group.run, is_counted=True).count()",
                "return 1 + 0 * child.attempts.filter(over, run=group.run, is_counted=True).count()",
            ),
        ),
        notices=f"{_IN_RUN}::test_job_fails_after_max_attempts",
    ),
    Breakage(
        name="one attempt more",
        broken="A child has one attempt more than its group allows.",
        hurts="`max_attempts: 1`, which is what everybody has who says nothing, renders twice.",
        edits=(Edit(_RETRYING, "if charged >= self.max_attempts or", "if charged > self.max_attempts or"),),
        notices=f"{_IN_RUN}::test_first_failure_is_final_without_a_policy",
    ),
    Breakage(
        name="nothing is too little",
        broken="Tries that come to nothing never count, however many there are.",
        hurts="A backend that forgets every prompt keeps a child for ever.",
        edits=(Edit("jobgroups/services/outcomes.py", "update(is_counted=True, failure_class=kind)", "update()"),),
        notices=f"{_IN_RUN}::test_five_lost_prompts_count_as_one_attempt",
        within=20,
    ),
    Breakage(
        name="back to the broken GPU",
        broken="A backend where only another could help is a candidate again.",
        hurts="A child goes to and fro between two machines, one of them on fire.",
        edits=(
            Edit(_RETRYING, "[one for one in candidates if one.backend_id not in tried.excluded]", "list(candidates)"),
        ),
        notices=f"{_IN_RUN}::test_job_never_returns_to_a_backend_with_a_fatal_gpu_error",
    ),
    Breakage(
        name="elsewhere unasked",
        broken="A child goes to another backend although its group did not allow that.",
        hurts="It is rendered on a machine that somebody left out on purpose.",
        edits=(Edit(_PLACES, "fit = [row for row in fit if row.id in within]", "fit = list(fit)"),),
        notices=f"{_IN_RUN}::test_retry_elsewhere_limits_the_backends",
    ),
    Breakage(
        name="smaller card first",
        broken="After an out of memory the smallest card is tried next.",
        hurts="All attempts are spent on cards that cannot hold it.",
        edits=(Edit(_RETRYING, "forgiven, -vram, failures", "forgiven, vram, failures"),),
        notices=f"{_PURE}::test_after_an_out_of_memory_the_largest_card_comes_first",
    ),
    Breakage(
        name="memory not freed",
        broken="A backend that ran out of memory is not asked to free it.",
        hurts="The next attempt there finds as little as the last one.",
        edits=(
            Edit(
                _RUNNER_ATTEMPT, "if end.failure in result.FREED_AFTER and self._context.lease_is_fresh:", "if False:"
            ),
        ),
        notices=f"{_FARM}::test_out_of_memory_is_tried_again_here_after_the_memory_was_freed",
    ),
    Breakage(
        name="no wait for the stopped one",
        broken="A child whose time was up is claimed while its prompt still runs.",
        hurts="Two machines render the same picture at once.",
        edits=(
            Edit(
                _CLAIMS,
                'older = Attempt.objects.filter(child=OuterRef("pk"), ended_at__isnull=True)',
                'older = Attempt.objects.filter(child=OuterRef("pk"), id=0)',
            ),
        ),
        notices=f"{_IN_RUN}::test_timed_out_job_is_retried_after_its_prompt_ended",
    ),
    Breakage(
        name="waiting for what hangs",
        broken="A child waits for the end of a prompt that hangs.",
        hurts="A machine that hangs until somebody comes in the morning keeps the picture till then.",
        edits=(Edit(_CLAIMS, "failure_class__in=OVERTAKEN", "failure_class__in=()"),),
        notices=f"{_IN_RUN}::test_late_result_changes_nothing_when_the_next_attempt_was_claimed",
    ),
    Breakage(
        name="hanging not noticed",
        broken="Nobody notes that a prompt goes on although its stop was asked for long ago.",
        hurts="Its child waits for it, and the machine is given the next one.",
        edits=(Edit(_RUNNER_ATTEMPT, "if not self._is_stalled and tried_for >= patience:", "if tried_for < 0:"),),
        notices=f"{_FARM}::test_a_machine_that_hangs_keeps_its_child_from_elsewhere_for_a_minute_only",
        within=30,
    ),
    Breakage(
        name="late picture thrown away",
        broken="A picture that came after its time is not taken although its child still waits.",
        hurts="It is rendered again for nothing.",
        edits=(
            Edit(
                _ATTEMPTS,
                "if state is AttemptState.SUCCESS and end.failure is None and is_free(child):",
                "if state is None:",
            ),
        ),
        notices=f"{_IN_RUN}::test_late_result_is_adopted_while_its_job_waits",
    ),
    Breakage(
        name="late picture taken at any time",
        broken="A picture that came after its time decides a child that is rendered anew.",
        hurts="A child is completed while its prompt runs, and its next end is lost.",
        edits=(
            Edit(
                "jobgroups/services/transactions.py",
                "    return child.status == ChildStatus.QUEUED and child.current_attempt_id is None",
                "    return child.status in (ChildStatus.QUEUED, ChildStatus.RUNNING)",
            ),
        ),
        notices=f"{_IN_RUN}::test_late_result_changes_nothing_when_the_next_attempt_was_claimed",
    ),
    Breakage(
        name="retried without its event",
        broken="A child is put back for another try and nobody is told.",
        hurts="Every client shows it running, on a machine where it is not.",
        edits=(
            Edit(
                "jobgroups/services/requeue.py",
                "        _record_retry(tx, child, attempt.backend_id, kind, reason)\n",
                "        pass\n",
            ),
        ),
        notices=f"{_IN_RUN}::test_failed_job_is_retried_elsewhere_with_its_seed",
    ),
    Breakage(
        name="dead backends called slow",
        broken="A job whose backend is offline when its time is up is stored as a timeout.",
        hurts="The user looks for a fault in the workflow, and the dead backend is never quarantined.",
        edits=(
            Edit(
                _RUNNER_ATTEMPT,
                "        offline = lookup is None and self._context.availability.offline_for() is not None\n",
                "        offline = False\n",
            ),
        ),
        notices=f"{_OUTAGES}::test_crash_without_retry_elsewhere_fails_the_job_as_lost_at_its_timeout",
    ),
    Breakage(
        name="frames of an offline backend ignored",
        broken="A backend counts as offline although its events still arrive.",
        hurts="Its jobs are rendered a second time on other backends.",
        edits=(
            Edit(
                "jobgroups/runner/availability.py",
                "if since is None or self.last_frame_at > since:",
                "if since is None:",
            ),
        ),
        notices=f"{_OUTAGES}::test_backend_whose_events_arrive_is_not_offline_when_its_answers_do_not",
    ),
    Breakage(
        name="lost attempts counted when they end",
        broken="An attempt at an offline backend counts against it only when its end is seen.",
        hurts="A backend that dies again and again is given one job after the other.",
        edits=(
            Edit(
                "jobgroups/services/quarantine.py",
                "failure_class__in=[FailureClass.STALLED, FailureClass.BACKEND_LOST]",
                "failure_class__in=[FailureClass.STALLED]",
            ),
        ),
        notices="tests/db/test_outages.py::test_lost_attempt_quarantines_its_backend_before_it_ends",
    ),
    Breakage(
        name="bound to a backend that is gone",
        broken="A child is given to a backend that is being forgotten at that moment.",
        hurts="Nobody renders it and nobody ends it.",
        edits=(Edit(_PLACES, "        lock_backends([backend_id])\n", "        pass\n"),),
        notices=f"{_IN_RUN}::test_retry_skips_a_backend_that_is_deleted_at_that_moment",
    ),
)
