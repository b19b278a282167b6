"""Breakages of holds, quarantine, and the bounds of waits."""

from tests.sabotage.breakage import Breakage, Edit

_HEALTH = "jobgroups/runner/session/health.py"
_RECONCILER = "jobgroups/runner/session/reconciler.py"
_HOLDS = "jobgroups/services/holds.py"

OF_HOLDS: tuple[Breakage, ...] = (
    Breakage(
        "A user's change of an adopted backend leaves it adopted.",
        "A backend with tags and headers is removed because it was off for ten minutes.",
        "api/test_found.py::test_backend_that_a_user_changed_is_never_removed",
        Edit("backends/services.py", "update(**changes, adopted_at=None)", "update(**changes)"),
    ),
    Breakage(
        "A claim does not check the hold under its lease.",
        "A backend that a user has just paused gets one more prompt.",
        "db/test_holds.py::test_claim_checks_the_hold_under_the_lease",
        Edit(
            "jobgroups/services/claims.py",
            "        if not has_free_slot(fence.backend_id, depth, locked=True):\n            raise _NoFreeSlot\n",
            "",
        ),
    ),
    Breakage(
        "A quarantined backend gets prompts.",
        "A GPU that fails every prompt within a second fails all jobs of a night.",
        "db/test_holds.py::test_third_counted_failure_quarantines_the_backend",
        Edit("jobgroups/services/slots.py", "quarantined=row.quarantined_at is not None,", "quarantined=False,"),
    ),
    Breakage(
        "A failed attempt is not recorded against its backend.",
        "A backend that crashes on every prompt gets the next one, without end.",
        "db/test_holds.py::test_failure_on_probation_doubles_the_quarantine",
        Edit("jobgroups/services/outcomes.py", "if not known or attempt.failure_class != known:", "if False:"),
    ),
    Breakage(
        "After a quarantine a backend gets its full depth at once.",
        "A backend that is still broken fails as many jobs as before.",
        "db/test_holds.py::test_release_starts_a_probation",
        Edit("backends/states.py", "return min(depth, 1) if", "return depth if"),
    ),
    Breakage(
        "An evicted attempt counts against `max_attempts`.",
        "A job whose backend was paused has no attempt left for a real failure.",
        "db/test_holds.py::test_eviction_requeues_the_child_and_counts_no_attempt",
        Edit(_HOLDS, "        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False)\n", ""),
    ),
    Breakage(
        "Prompts are evicted only in the moment of the pause.",
        "If the runner ends in that moment, the paused backend renders on.",
        "runner/test_holds.py::test_a_pause_at_once_is_carried_out_by_the_next_runner",
        Edit(_RECONCILER, "and desired.evict", "and desired.evict and not self._attempts.drivers"),
    ),
    Breakage(
        "A drained backend is disabled although a job waits for it.",
        "The job fails, or waits for a disabled backend.",
        "db/test_holds.py::test_drain_waits_for_queued_children",
        Edit(_HOLDS, "any(backend_in_use(fence.backend_id))", "backend_in_use(fence.backend_id)[1]"),
    ),
)

OF_WAITS: tuple[Breakage, ...] = (
    Breakage(
        "A probe with an endless answer counts as answered.",
        "The backend is shown as online, and its jobs wait for a day.",
        "runner/test_bounded_waits.py::test_backend_with_a_broken_probe_is_unavailable_and_its_jobs_move_or_end",
        Edit(_HEALTH, "AnswerTooLarge) and error.path.startswith(_MAY_BE_LONG", "AnswerTooLarge"),
    ),
    Breakage(
        "An event socket that opens ends the absence of a backend whose requests fail.",
        "A socket that reconnects restarts the clock, and jobs never move or end.",
        "runner/test_bounded_waits.py::test_event_sockets_alone_do_not_make_a_backend_available",
        Edit(_HEALTH, "if availability.requests_fail:", "if False:"),
    ),
    Breakage(
        "An absent backend is probed over a kept connection.",
        "It refuses every prompt and counts as back every few seconds: its jobs wait for a day.",
        "runner/test_bounded_waits.py::test_job_ends_when_new_connections_are_refused_and_kept_ones_work",
        Edit(_HEALTH, "new_connection=is_away", "new_connection=False"),
    ),
    Breakage(
        "A backend that answers probes and no lookup counts as fit.",
        "An uncertain job waits for a day and occupies a slot.",
        "runner/test_bounded_waits.py::test_uncertain_job_ends_when_no_look_up_succeeds",
        Edit(_HEALTH, "moment - since >= self._intervals.stuck_after", "moment < since"),
    ),
    Breakage(
        "The absence of a backend is forgotten when its session ends.",
        "If a session fails every second, the waiting jobs never end.",
        "runner/test_bounded_waits.py::test_job_moves_or_ends_when_the_session_of_its_backend_always_fails",
        Edit("jobgroups/runner/service.py", "if held.ending:", "if True:"),
    ),
)
