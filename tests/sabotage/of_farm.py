"""Breakages of a farm of processes: two runners at one backend, or none, or work that goes to and fro."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_RUNNERS = "jobgroups/services/runners.py"
_LEASING = "jobgroups/queries/leases.py"
_SHARING = "jobgroups/domain/leases.py"
_LOCKS = "jobgroups/database/locks.py"
_SESSION = "jobgroups/runner/session/session.py"
_LEASES = "tests/db/test_leasing.py"
_ON_POSTGRES = "tests/e2e/test_on_postgresql.py"
_TWO = "tests/e2e/test_two_runners.py"
_HANDED = "tests/runner/test_handing_over.py"
_SHARES = "tests/unit/test_sharing.py"

OF_FARM: tuple[Breakage, ...] = (
    Breakage(
        name="lease taken from the living",
        broken="A lease is taken although another runner renews it.",
        hurts="Two runners drive one backend, and take it from each other all day.",
        edits=(
            Edit(
                "jobgroups/services/leases.py",
                "if holds and lease.runner not in dead_runners():",
                "if holds and not lease.runner:",
            ),
        ),
        notices=f"{_LEASES}::test_released_lease_is_free_at_once",
    ),
    Breakage(
        name="clock of the client",
        broken="Leases and heartbeats go by the clock of whoever looks.",
        hurts="A machine whose clock is ahead finds every lease at its end, and takes all of them.",
        edits=(
            Edit(
                _LEASING,
                '    if connection.vendor != "postgresql":\n        return now()\n',
                "    if connection.vendor:\n        return now()\n",
            ),
        ),
        notices=f"{_TWO}::test_a_machine_whose_clock_is_an_hour_ahead_takes_nothing_away",
    ),
    Breakage(
        name="claim without lock",
        broken="A claim locks neither its group nor its child.",
        hurts="Two events get one number, or a child that somebody cancels at that moment is sent.",
        edits=(
            Edit(
                "jobgroups/services/transactions.py",
                "lambda: JobGroup.objects.select_for_update().filter(pk=KEY).order_by()",
                "lambda: JobGroup.objects.filter(pk=KEY).order_by()",
            ),
        ),
        notices=f"{_ON_POSTGRES}::test_attempts_on_postgresql",
        within=90,
    ),
    Breakage(
        name="progress without its lease",
        broken="Progress is stored under whatever lease it was heard.",
        hurts="A runner that was taken for dead sets a child's progress back.",
        edits=(
            Edit(
                "jobgroups/services/leases.py",
                "{fence for fence in fences if epochs.get(fence.backend_id) == fence.epoch}",
                "{fence for fence in fences if fence.backend_id in epochs}",
            ),
        ),
        notices="tests/db/test_lease_fences.py::test_progress_is_not_stored_under_a_lost_lease",
    ),
    Breakage(
        name="renewal behind writers",
        broken="A renewal waits until nobody writes under the lease.",
        hurts="One row that somebody holds for long costs a living runner all its backends.",
        edits=(Edit("jobgroups/services/leases.py", '" FOR KEY SHARE" if', '" FOR SHARE" if'),),
        notices=f"{_ON_POSTGRES}::test_leases_on_postgresql",
        within=90,
    ),
    Breakage(
        name="rows kept by who stands still",
        broken="A process that is paused in a transaction keeps its rows for as long as it likes.",
        hurts="Nobody takes its backends over, and whoever needs one of its groups waits with it.",
        edits=(
            Edit(
                "director/settings.py",
                "-c idle_in_transaction_session_timeout=8s ",
                "-c idle_in_transaction_session_timeout=0 ",
            ),
        ),
        notices=f"{_ON_POSTGRES}::test_leases_on_postgresql",
        within=90,
    ),
    Breakage(
        name="the dead are waited for",
        broken="Nobody looks whether a runner's lock is free.",
        hurts="After a runner's process died its backends stand idle until the leases end.",
        edits=(
            Edit(
                _LEASING,
                "return frozenset(name for (name,) in cursor.fetchall())",
                "return frozenset(name for (name,) in cursor.fetchall() if not name)",
            ),
        ),
        notices=f"{_ON_POSTGRES}::test_leases_on_postgresql",
        within=90,
    ),
    Breakage(
        name="name not kept",
        broken="The lock on a runner's name is not taken again after PostgreSQL was restarted.",
        hurts="The runner looks dead to all others, and a second one of its name starts beside it.",
        edits=(
            Edit(
                _LOCKS,
                "            if self._connection is not None:\n                try:\n",
                "            if self._connection is not None:\n                return True\n                try:\n",
            ),
        ),
        notices=f"{_ON_POSTGRES}::test_leases_on_postgresql",
        within=90,
    ),
    Breakage(
        name="all for one",
        broken="A runner takes whatever is free.",
        hurts="The first one has all backends, and its machine is the farm's limit.",
        edits=(
            Edit(
                _SHARING,
                "room = fair_share(len(wanted), 1 + len(leases.live_runners)) - len(mine)",
                "room = fair_share(len(wanted), 1) - len(mine)",
            ),
        ),
        notices=f"{_SHARES}::test_of_two_that_start_together_each_takes_half",
    ),
    Breakage(
        name="own lease left lying",
        broken="What stands in a runner's name from an earlier life stays so when it starts.",
        hurts="Its beat renews what is beyond its share, and nobody ever drives these backends.",
        edits=(
            Edit(
                _RUNNERS,
                '                "stopped_at": None,\n            },\n        )\n        _release_all(name, moment)\n',
                '                "stopped_at": None,\n            },\n        )\n',
            ),
        ),
        notices=f"{_LEASES}::test_registration_releases_the_leases_of_the_earlier_process",
    ),
    Breakage(
        name="lease of what nobody drives",
        broken="A lease is kept when the session that drove its backend is over.",
        hurts="It is renewed with the others for ever, and no other runner takes it.",
        edits=(
            Edit(
                "jobgroups/runner/service.py",
                "        await context.database.run_with_retry(\n"
                "            leases.lease_release, fence=held.session.context.fence\n"
                "        )\n"
                "        if held.releases_lease:\n",
                "        if held.releases_lease:\n",
            ),
        ),
        notices=f"{_HANDED}::test_a_lease_is_held_only_of_what_is_driven",
        within=40,
    ),
    Breakage(
        name="nothing for who comes",
        broken="A runner keeps what it has, whoever else comes.",
        hurts="A machine that was added at noon does nothing until somebody stops the others.",
        edits=(
            Edit(
                _SHARING, "    if len(held) <= least:\n        return 0\n", "    if len(held) >= 0:\n        return 0\n"
            ),
        ),
        notices=f"{_SHARES}::test_to_a_runner_that_comes_half_is_given",
    ),
    Breakage(
        name="handed over in the middle",
        broken="A backend is handed over while a prompt is being sent there.",
        hurts="Nobody knows whether it arrived: its child waits half a minute for nothing.",
        edits=(
            Edit(
                _SESSION,
                "return self.claimer.has_no_pending_claim and all(one.can_hand_over for one in drivers)",
                "return self.claimer.has_no_pending_claim and all(one.spec for one in drivers)",
            ),
        ),
        notices=f"{_HANDED}::test_a_backend_that_is_being_sent_to_is_not_given_up",
    ),
    Breakage(
        name="sent after standing still",
        broken="Nobody looks at the clock between the connection and the prompt.",
        hurts="A runner that was paused in between sends what another one has long rendered.",
        edits=(
            Edit(
                "jobgroups/runner/attempt/driver.py",
                "                may_send=lambda: self._context.lease_is_fresh,\n",
                "",
            ),
        ),
        notices=f"{_HANDED}::test_a_runner_that_stood_still_just_before_it_sent_sends_nothing",
    ),
)
