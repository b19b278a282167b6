"""Breakages of the bounds of waits: a job whose backend does not work waits for a day."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_OBSERVING = "jobgroups/runner/session/health.py"
_BOUNDS = "tests/runner/test_bounded_waits.py"

OF_WAITS: tuple[Breakage, ...] = (
    Breakage(
        name="endless answer is an answer",
        broken="A probe that is answered without end counts as answered.",
        hurts="The backend is shown as online, gets nothing, and its jobs wait for a day.",
        edits=(
            Edit(
                _OBSERVING,
                "isinstance(error, AnswerTooLarge) and error.path.startswith(_MAY_BE_LONG)",
                "isinstance(error, AnswerTooLarge)",
            ),
        ),
        notices=f"{_BOUNDS}::test_backend_with_a_broken_probe_is_unavailable_and_its_jobs_move_or_end",
    ),
    Breakage(
        name="event socket ends an absence",
        broken="An event socket that opens ends the absence of a backend whose requests fail.",
        hurts="A socket that reconnects restarts the clock, and jobs never move or end.",
        edits=(Edit(_OBSERVING, "        if availability.requests_fail:\n", "        if False:\n"),),
        notices=f"{_BOUNDS}::test_event_sockets_alone_do_not_make_a_backend_available",
    ),
    Breakage(
        name="kept connection ends an absence",
        broken="A backend that is away is probed over a connection from before.",
        hurts="It refuses every prompt and counts as back every few seconds: its jobs wait for a day.",
        edits=(Edit(_OBSERVING, "new_connection=is_away", "new_connection=False"),),
        notices=f"{_BOUNDS}::test_job_ends_when_new_connections_are_refused_and_kept_ones_work",
    ),
    Breakage(
        name="failing look-ups unnoticed",
        broken="A backend that answers probes and no look-up of a prompt counts as fit.",
        hurts="A job whose prompt may have arrived waits for a day, and takes a slot from all others.",
        edits=(
            Edit(
                _OBSERVING,
                "if since is not None and moment - since >= self._intervals.stuck_after:",
                "if since is not None and moment < since:",
            ),
        ),
        notices=f"{_BOUNDS}::test_uncertain_job_ends_when_no_look_up_succeeds",
    ),
    Breakage(
        name="new session, new clock",
        broken="The absence of a backend is forgotten when its session ends.",
        hurts="A session that fails every second never ends the jobs that wait.",
        edits=(
            Edit(
                "jobgroups/runner/service.py",
                "        if held.ending:\n            context.unavailable_since.pop",
                "        if True:\n            context.unavailable_since.pop",
            ),
        ),
        notices=f"{_BOUNDS}::test_job_moves_or_ends_when_the_session_of_its_backend_always_fails",
    ),
)
