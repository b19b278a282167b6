"""Breakages of leases in a farm of processes."""

from tests.sabotage.breakage import Breakage, Edit

_LOCKS = "jobgroups/database/locks.py"
_QUERIES_LEASES = "jobgroups/queries/leases.py"
_DRIVER = "jobgroups/runner/attempt/driver.py"
_LEASES = "jobgroups/services/leases.py"
_E2E_TWO_RUNNERS = "e2e/test_two_runners.py"

OF_LEASES: tuple[Breakage, ...] = (
    Breakage(
        "A lease is acquired although another runner renews it.",
        "Two runners drive one backend and take it from each other without end.",
        "db/test_leasing.py::test_released_lease_is_free_at_once",
        Edit(_LEASES, "and lease.runner not in dead_runners()", "and not lease.runner"),
    ),
    Breakage(
        "Leases and heartbeats use the clock of each runner's machine.",
        "A machine whose clock is ahead finds all leases expired and acquires them.",
        f"{_E2E_TWO_RUNNERS}::test_a_machine_whose_clock_is_an_hour_ahead_takes_nothing_away",
        Edit(_QUERIES_LEASES, 'vendor != "postgresql":\n        return now', "vendor:\n        return now"),
    ),
    Breakage(
        "A group's transaction does not lock its row.",
        "Two events get one `seq`, or a job is sent that is being cancelled.",
        "db/test_attempt_services.py::test_group_completes_once_when_its_last_jobs_end_together",
        Edit("jobgroups/services/transactions.py", " JobGroup.objects.select_for_update()", " JobGroup.objects"),
        on_postgresql=True,
    ),
    Breakage(
        "Progress is stored although its lease is lost.",
        "A stale runner overwrites a job's progress.",
        "db/test_leasing.py::test_progress_is_not_stored_under_a_lost_lease",
        Edit(_LEASES, "epochs.get(fence.backend_id) == fence.epoch", "fence.backend_id in epochs"),
    ),
    Breakage(
        "The renewal of a lease waits for writers under it.",
        "One long transaction costs a live runner all its backends.",
        "db/test_leasing.py::test_lease_renewal_waits_for_no_writer",
        Edit(_LEASES, '" FOR KEY SHARE" if', '" FOR SHARE" if'),
        on_postgresql=True,
    ),
    Breakage(
        "A process suspended within a transaction keeps its row locks.",
        "Its backends cannot be taken over, and writers of its groups wait.",
        "db/test_leasing.py::test_lock_timeout_of_a_runner_is_shorter_than_its_lease",
        Edit("director/settings.py", "session_timeout=8s", "session_timeout=0"),
        on_postgresql=True,
    ),
    Breakage(
        "A free lock on a runner's name does not count as a dead runner.",
        "After a crash of a runner its backends are idle until the leases expire.",
        "db/test_leasing.py::test_lease_of_a_runner_without_its_name_lock_is_acquired_at_once",
        Edit(_QUERIES_LEASES, "name,) in cursor.fetchall()", "name,) in cursor.fetchall() if not name"),
        on_postgresql=True,
    ),
    Breakage(
        "A runner does not acquire its name's lock again after a restart of PostgreSQL.",
        "Others treat it as dead, and a second runner of that name can start.",
        "db/test_leasing.py::test_name_lock_is_acquired_again_after_its_connection_was_cut",
        Edit(_LOCKS, "None:\n                try:", "None:\n                return True\n                try:"),
        on_postgresql=True,
    ),
    Breakage(
        "A runner acquires every free backend.",
        "The first runner has all backends, and its machine limits the farm.",
        "unit/test_sharing.py::test_of_two_that_start_together_each_takes_half",
        Edit("jobgroups/domain/leases.py", "len(wanted), 1 + len(leases.live_runners)", "len(wanted), 1"),
    ),
    Breakage(
        "Leases of a runner's earlier process are kept when it starts.",
        "Backends above its share are renewed, but never driven.",
        "db/test_leasing.py::test_registration_releases_the_leases_of_the_earlier_process",
        Edit("jobgroups/services/runners.py", ")\n    _release_all(name, moment)", ")"),
    ),
    Breakage(
        "A lease is kept after the session of its backend has ended.",
        "It is renewed without end, and no other runner can acquire it.",
        "runner/test_rare_moments.py::test_a_lease_is_held_only_of_what_is_driven",
        Edit(
            "jobgroups/runner/service.py",
            "await context.database.run_with_retry(leases.lease_release, fence=held.session.context.fence)\n"
            "        if held.releases_lease:",
            "if held.releases_lease:",
        ),
        within=40,
    ),
    Breakage(
        "A runner never hands over backends.",
        "An added runner is idle until another one stops.",
        "unit/test_sharing.py::test_to_a_runner_that_comes_half_is_given",
        Edit("jobgroups/domain/leases.py", "if len(held) <= least:", "if len(held) >= 0:"),
    ),
    Breakage(
        "A backend is handed over while a prompt is being sent to it.",
        "The attempt becomes uncertain, and its job waits for 30 s without need.",
        "runner/test_rare_moments.py::test_a_backend_that_is_being_sent_to_is_not_given_up",
        Edit("jobgroups/runner/session/session.py", "and all(driver.can_hand_over", "and all(driver.spec"),
    ),
    Breakage(
        "The lease is not checked between the connection and the prompt.",
        "A runner that was suspended sends a job that another runner has rendered.",
        "runner/test_rare_moments.py::test_a_runner_that_stood_still_just_before_it_sent_sends_nothing",
        Edit(_DRIVER, "                may_send=lambda: self._context.lease_is_fresh,\n", ""),
    ),
)
