"""Breakages of what holds a backend back: a pause, a drain, a quarantine; and of giving back."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_CLAIMS = "jobgroups/services/claims.py"
_HOLDS = "jobgroups/services/holds.py"
_ROWS = "tests/db/test_holds.py"
_RUNNING = "tests/runner/test_holds.py"

OF_HOLDING: tuple[Breakage, ...] = (
    Breakage(
        name="a person's change not seen by discovery",
        broken="A change of an adopted backend does not make it a person's.",
        hurts="A backend with tags and a token of a proxy is removed because it was off for ten minutes.",
        edits=(Edit("backends/services.py", "update(**changes, adopted_at=None)", "update(**changes)"),),
        notices="tests/api/test_found.py::test_backend_that_a_user_changed_is_never_removed",
    ),
    Breakage(
        name="claim ignores the hold",
        broken="A claim does not look under its lease whether the backend was held back.",
        hurts="Somebody pauses a machine to work on it, and it gets one more render.",
        edits=(
            Edit(
                _CLAIMS,
                "        if not has_free_slot(fence.backend_id, depth, locked=True):\n            raise _NoFreeSlot\n",
                "",
            ),
        ),
        notices=f"{_ROWS}::test_claim_checks_the_hold_under_the_lease",
    ),
    Breakage(
        name="quarantine not checked",
        broken="A backend that was set aside still takes prompts.",
        hurts="A GPU that fails every prompt in a second fails a whole night's renders.",
        edits=(
            Edit("jobgroups/services/slots.py", "quarantined=row.quarantined_at is not None,", "quarantined=False,"),
        ),
        notices=f"{_ROWS}::test_third_counted_failure_quarantines_the_backend",
    ),
    Breakage(
        name="failure not counted",
        broken="The end of an attempt is not recorded against its backend.",
        hurts="A backend that crashes on every prompt gets the next prompt, all night.",
        edits=(
            Edit(
                "jobgroups/services/outcomes.py",
                "    if not known or attempt.failure_class != known:\n",
                "    if False:\n",
            ),
        ),
        notices=f"{_ROWS}::test_failure_on_probation_doubles_the_quarantine",
    ),
    Breakage(
        name="no probation",
        broken="A backend that comes out of quarantine gets its full share at once.",
        hurts="One that is still broken takes as many renders down with it as before.",
        edits=(
            Edit(
                "backends/states.py",
                "return min(depth, 1) if consecutive_quarantines",
                "return depth if consecutive_quarantines",
            ),
        ),
        notices=f"{_ROWS}::test_release_starts_a_probation",
    ),
    Breakage(
        name="given back is charged",
        broken="An attempt that was given back counts as a try of its child.",
        hurts="A child whose machine was paused has no try left for a real failure.",
        edits=(Edit(_HOLDS, "        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False)\n", ""),),
        notices=f"{_ROWS}::test_eviction_requeues_the_child_and_counts_no_attempt",
    ),
    Breakage(
        name="word without a deed",
        broken="What was to be given back at once is given back only when the word is new.",
        hurts="The runner dies between word and deed: the machine that was wanted renders on.",
        edits=(
            Edit(
                "jobgroups/runner/session/reconciler.py",
                "        if desired.hold and desired.evict:\n",
                "        if desired.hold and desired.evict and not self._attempts.drivers:\n",
            ),
        ),
        notices=f"{_RUNNING}::test_a_pause_at_once_is_carried_out_by_the_next_runner",
        within=60,
    ),
    Breakage(
        name="drained while a child waits",
        broken="A backend that is drained is disabled although a child waits for it.",
        hurts="The child fails, or waits for a machine that nobody will start again.",
        edits=(Edit(_HOLDS, "any(backend_in_use(fence.backend_id))", "backend_in_use(fence.backend_id)[1]"),),
        notices=f"{_ROWS}::test_drain_waits_for_queued_children",
    ),
)
