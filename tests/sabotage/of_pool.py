"""Breakages of the pool."""

from tests.sabotage.breakage import Breakage, Edit

_POOL = "jobgroups/domain/pool.py"

OF_POOL: tuple[Breakage, ...] = (
    Breakage(
        "A claim from the pool does not check the candidates under the lock of its backend.",
        "A job is executed on a backend from which a user has just taken the tag.",
        "db/test_pool.py::test_nothing_is_claimed_after_a_change_that_forbids_it",
        Edit("jobgroups/services/claims.py", "if not fits(choice.needs, row.id, capabilities_of(row)):", "if False:"),
    ),
    Breakage(
        "A backend takes a job of the pool again although it would fail again there.",
        "A backend with a broken GPU uses up all attempts of a job that another one could execute.",
        "db/test_pool.py::test_a_backend_that_would_fail_again_does_not_take_the_job_again",
        Edit("jobgroups/services/claims.py", ".filter(~Exists(_refused_by_history()))", ""),
    ),
    Breakage(
        "A prompt that starts before its recall is stopped.",
        "A render is interrupted, and starts again elsewhere, because its job seemed to wait.",
        "db/test_recalls.py::test_recall_is_void_when_the_prompt_starts_before_its_removal",
        Edit("jobgroups/domain/states.py", "(StopReason.MOVED, StopReason.RECALLED)", "(StopReason.MOVED,)"),
    ),
    Breakage(
        "A job that goes back to the pool keeps its backend.",
        "It waits for one backend while others are idle.",
        "db/test_pool.py::test_a_prompt_that_was_not_sent_goes_back_to_the_pool",
        Edit(
            "jobgroups/services/requeue.py",
            'fields["backend_id"] = None',
            'fields["attempt_count"] = child.attempt_count',
        ),
    ),
    Breakage(
        "A write that shares a transaction does not check its own lease.",
        "A stale runner overwrites the rows of its successor.",
        "db/test_group_store.py::test_a_lost_lease_fails_its_own_write_alone",
        Edit(
            "jobgroups/services/transactions.py",
            "if fence is not None and fence not in shared.fences:",
            "if fence is None and shared is None:",
        ),
    ),
    Breakage(
        "A cancel does not stop prompts that were claimed a moment before.",
        "A cancelled job is executed to its end.",
        "db/test_pool.py::test_a_cancel_and_claims_at_once_leave_no_prompt_without_a_stop",
        Edit(
            "jobgroups/services/cancellation.py",
            "active = Attempt.objects.filter(child__in=cancelled, ended_at__isnull=True)",
            "active = Attempt.objects.filter(\n"
            "        child__in=[child for child in cancelled if child.current_attempt_id],\n"
            "        ended_at__isnull=True,\n"
            "        started_at__isnull=False,\n"
            "    )",
        ),
    ),
    Breakage(
        "A slow backend takes a last job although a faster one ends it sooner.",
        "A group of twelve pictures ends when the slowest card has rendered its last one.",
        "unit/test_pool.py::test_a_slow_machine_takes_the_last_jobs_only_if_it_ends_them_first",
        Edit(_POOL, "return variant_id in plan.unplanned or", "return variant_id >= 0 or"),
    ),
    Breakage(
        "A backend takes nothing of a line that is too long to be planned.",
        "A GPU with other models loaded is idle while thousands of jobs wait for it.",
        "unit/test_pool.py::test_a_backend_takes_what_comes_after_a_line_too_long_to_be_planned",
        Edit(_POOL, "return variant_id in plan.unplanned or", "return"),
    ),
    Breakage(
        "Jobs whose models are loaded are preferred without a limit.",
        "A small group waits for hours behind a large one that was submitted later.",
        "unit/test_pool_schedule.py::test_a_job_waits_at_most_a_minute_longer_for_the_sake_of_models",
        Edit(_POOL, "variant.bypassed_for >= _BYPASS_S", "variant.bypassed_for >= 60 * _BYPASS_S"),
    ),
    Breakage(
        "A workflow that never ran on a backend is expected to take the typical time there.",
        "The last jobs wait for a slow card, and the shown ends are wrong, until each pair was measured.",
        "unit/test_estimates.py::test_pairs_that_never_ran_are_estimated_from_noisy_times_of_others",
        Edit("jobgroups/domain/estimates.py", "return typical / self._speed(backend_id)", "return typical"),
    ),
    Breakage(
        "A prompt that waits behind one that hangs is not recalled.",
        "A picture waits for the timeout of another one while other GPUs are idle.",
        "unit/test_pool.py::test_a_prompt_is_recalled_for_an_earlier_end_or_behind_one_that_hangs",
        Edit(_POOL, "                found.append(one.attempt_id)\n", "                continue\n"),
    ),
    Breakage(
        "Failures for lack of memory count without an end.",
        "A card is excluded from a workflow for two failures that were weeks apart.",
        "db/test_exclusions.py::test_an_old_out_of_memory_does_not_count_with_a_new_one",
        Edit(
            "jobgroups/domain/exclusions.py",
            "ExclusionKind.OUT_OF_MEMORY: dt.timedelta(hours=24)",
            "ExclusionKind.OUT_OF_MEMORY: dt.timedelta(days=9)",
        ),
    ),
)
