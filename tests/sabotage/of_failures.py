"""Breakages of the retry policy."""

from tests.sabotage.breakage import Breakage, Edit

_RETRY_POLICY = "jobgroups/domain/retry_policy.py"
_DRIVER = "jobgroups/runner/attempt/driver.py"
_AVAILABILITY = "jobgroups/runner/availability.py"
_ATTEMPTS = "jobgroups/services/attempts.py"
_REQUEUE = "jobgroups/services/requeue.py"

OF_FAILURES: tuple[Breakage, ...] = (
    Breakage(
        "Attempts are not counted against `max_attempts`.",
        "A workflow that always fails is executed without end.",
        "db/test_retry_in_run.py::test_job_fails_after_max_attempts",
        Edit(_REQUEUE, "return child.attempts.filter", "return 1 + 0 * child.attempts.filter"),
    ),
    Breakage(
        "A job has one attempt more than its group allows.",
        "With the default `max_attempts: 1`, a failing workflow is executed twice.",
        "db/test_retry_in_run.py::test_first_failure_is_final_without_a_policy",
        Edit(_RETRY_POLICY, "if charged >= self.max_attempts", "if charged > self.max_attempts"),
    ),
    Breakage(
        "Prompts that are lost before they run never count as an attempt.",
        "A backend that loses every prompt keeps a job without end.",
        "db/test_retry_in_run.py::test_five_lost_prompts_count_as_one_attempt",
        Edit("jobgroups/services/outcomes.py", "update(is_counted=True, failure_class=kind)", "update()"),
        within=20,
    ),
    Breakage(
        "A failed job returns to a backend that is excluded for it.",
        "All attempts are spent on a backend with a broken GPU.",
        "db/test_retry_in_run.py::test_job_never_returns_to_a_backend_with_a_fatal_gpu_error",
        Edit(_RETRY_POLICY, "[one for one in candidates if one.backend_id not in tried.excluded]", "list(candidates)"),
    ),
    Breakage(
        "A job is retried on backends that `retry_elsewhere` does not allow.",
        "It runs on a backend that its user left out on purpose.",
        "db/test_retry_in_run.py::test_retry_elsewhere_limits_the_backends",
        Edit("jobgroups/services/candidates.py", "fit = [row for row in fit if row.id in within]", "fit = list(fit)"),
    ),
    Breakage(
        "After out of memory the GPU with the least memory comes first.",
        "All attempts are spent on GPUs that are too small.",
        "unit/test_retrying.py::test_after_an_out_of_memory_the_largest_card_comes_first",
        Edit(_RETRY_POLICY, "forgiven, -vram, failures", "forgiven, vram, failures"),
    ),
    Breakage(
        "After out of memory no `POST /free` is sent.",
        "The next attempt at that backend finds no more memory than the last one.",
        "runner/test_retry_elsewhere.py::test_out_of_memory_is_tried_again_here_after_the_memory_was_freed",
        Edit(_DRIVER, "end.failure in result.FREED_AFTER and self._context.lease_is_fresh", "False"),
    ),
    Breakage(
        "A timed out job is claimed again while its prompt still runs.",
        "Two backends render the same image at once.",
        "db/test_retry_in_run.py::test_timed_out_job_is_retried_after_its_prompt_ended",
        Edit("jobgroups/services/claims.py", 'OuterRef("pk"), ended_at__isnull=True', 'OuterRef("pk"), id=0'),
    ),
    Breakage(
        "A job waits for the end of a prompt that hangs.",
        "It waits until a user restarts that backend.",
        "db/test_retry_in_run.py::test_late_result_changes_nothing_when_the_next_attempt_was_claimed",
        Edit("jobgroups/services/claims.py", "failure_class__in=OVERTAKEN", "failure_class__in=()"),
    ),
    Breakage(
        "A prompt that runs long after its stop is not marked as stalled.",
        "Its job waits for it, and the backend gets the next job.",
        "runner/test_retry_elsewhere.py::test_a_machine_that_hangs_keeps_its_child_from_elsewhere_for_a_minute_only",
        Edit(_DRIVER, "if not self._is_stalled and tried_for >= patience", "if tried_for < 0"),
        within=30,
    ),
    Breakage(
        "A late result is not adopted while its job waits.",
        "The job runs again without need.",
        "db/test_retry_in_run.py::test_late_result_is_adopted_while_its_job_waits",
        Edit(_ATTEMPTS, "AttemptState.SUCCESS and end.failure is None and is_free(child)", "None"),
    ),
    Breakage(
        "A late result ends a job whose next attempt runs.",
        "The job is completed while its prompt runs, and the result of that prompt is lost.",
        "db/test_retry_in_run.py::test_late_result_changes_nothing_when_the_next_attempt_was_claimed",
        Edit(
            "jobgroups/services/transactions.py",
            "return child.status == ChildStatus.QUEUED and child.current_attempt_id is None",
            "return child.status in (ChildStatus.QUEUED, ChildStatus.RUNNING)",
        ),
    ),
    Breakage(
        "The retry of a failed job adds no event.",
        "Clients show the job as running on its old backend.",
        "db/test_retry_in_run.py::test_failed_job_is_retried_elsewhere_with_its_seed",
        Edit(_REQUEUE, "_record_retry(tx, child, attempt.backend_id, kind, reason)", "pass"),
    ),
    Breakage(
        "A job whose backend is offline at its timeout is stored as a timeout.",
        "The user looks for a fault in the workflow, and the dead backend is never quarantined.",
        "runner/test_outages.py::test_crash_without_retry_elsewhere_fails_the_job_as_lost_at_its_timeout",
        Edit(
            _DRIVER,
            "offline = lookup is None and self._context.availability.offline_for() is not None",
            "offline = False",
        ),
    ),
    Breakage(
        "A backend counts as offline although its events still arrive.",
        "Its jobs are executed a second time on other backends.",
        "runner/test_outages.py::test_backend_whose_events_arrive_is_not_offline_when_its_answers_do_not",
        Edit(_AVAILABILITY, "if since is None or self.last_frame_at > since:", "if since is None:"),
    ),
    Breakage(
        "An attempt at an offline backend counts against the backend only when its end is known.",
        "A backend that crashes repeatedly gets one job after the other.",
        "db/test_outages.py::test_lost_attempt_quarantines_its_backend_before_it_ends",
        Edit("jobgroups/services/quarantine.py", "STALLED, FailureClass.BACKEND_LOST", "STALLED"),
    ),
    Breakage(
        "A job is assigned to a backend that is deleted in that moment.",
        "The job is never sent and never ends.",
        "db/test_retry_in_run.py::test_retry_skips_a_backend_that_is_deleted_at_that_moment",
        Edit("jobgroups/services/candidates.py", "lock_backends([backend_id])", "pass"),
    ),
    Breakage(
        "A claim does not check the exclusions of its backend.",
        "A backend that lacks the model takes job after job while another one waits for them.",
        "db/test_exclusions.py::test_a_refusal_excludes_the_backend_and_costs_the_job_nothing",
        Edit(
            "jobgroups/services/claims.py",
            "if _excluded.first(fence.backend_id, **cannot) is not None:",
            "if _excluded.first(fence.backend_id, **cannot) is not None and False:",
        ),
    ),
    Breakage(
        "A refusal for a missing model counts against `max_attempts`.",
        "Two backends without the model make a job fail that a third one could execute.",
        "db/test_exclusions.py::test_a_backend_that_refuses_everything_makes_no_job_fail_while_another_fits",
        Edit(_REQUEUE, "if kind is FailureClass.NODE_OR_MODEL_MISSING and not child.is_bound:", "if False:"),
    ),
)
