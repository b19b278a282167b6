"""Breakages between acceptance and end: an end mistaken, a stop forgotten, a stranger hit."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_ATTEMPT = "jobgroups/runner/attempt/driver.py"
_SESSION = "jobgroups/runner/interrupts.py"
_FAULTS = "tests/runner/test_faults.py"
_PARTIAL = "tests/runner/test_partial_outputs.py"

OF_FOLLOWING: tuple[Breakage, ...] = (
    Breakage(
        name="no follow socket",
        broken="After a reconnect only the new socket's id is listened to.",
        hurts="ComfyUI tells a prompt's progress and end to the id that sent it: nobody hears them.",
        edits=(
            Edit(
                "jobgroups/runner/session/sockets.py",
                "if client_id != self._main_id and client_id not in self._follows:",
                "if False:",
            ),
        ),
        notices="tests/runner/test_rare_moments.py::test_a_prompt_claimed_while_its_socket_breaks_is_heard_all_the_same",
    ),
    Breakage(
        name="error frame decides alone",
        broken="An `execution_error` frame ends the child without asking the history.",
        hurts="A prompt with one blocked output fails although its pictures are being made.",
        edits=(
            Edit(
                _ATTEMPT,
                "        if self._closing_frame and not self._done:\n",
                "        if isinstance(self._heard_end, ExecutionError) and not self._done:\n"
                "            await self._result_without_history()\n"
                "        if self._closing_frame and not self._done:\n",
            ),
        ),
        notices=f"{_FAULTS}::test_an_error_frame_alone_ends_nothing",
    ),
    Breakage(
        name="absent once is lost",
        broken="A running prompt that one look does not find is lost.",
        hurts="ComfyUI writes the history a moment after the end: a finished render fails.",
        edits=(Edit(_ATTEMPT, "if absent_for < self._intervals.stop_retry:", "if False:"),),
        notices=f"{_FAULTS}::test_an_end_that_a_look_just_misses_is_no_loss",
    ),
    Breakage(
        name="timeout from the acceptance",
        broken="A child's time runs from when ComfyUI has queued it.",
        hurts="Whoever waits behind another user's long render times out without having run.",
        edits=(
            Edit(
                _ATTEMPT,
                "            attempts.attempt_accepted, prompt_id=other_id, node_errors=node_errors\n        )\n",
                "            attempts.attempt_accepted, prompt_id=other_id, node_errors=node_errors\n"
                "        )\n"
                "        self._timeout_at = time.monotonic() + self.spec.timeout_s\n",
            ),
        ),
        notices=f"{_FAULTS}::test_waiting_in_the_backends_queue_takes_nothing_of_the_timeout",
    ),
    Breakage(
        name="timeout without a last look",
        broken="A timeout is stored without asking the history first.",
        hurts="A render that has ended in time, unheard, is thrown away.",
        edits=(
            Edit(
                _ATTEMPT,
                "if lookup is not None and lookup.location in (PromptLocation.ENDED, PromptLocation.ABSENT):",
                "if False:",
            ),
        ),
        notices=f"{_FAULTS}::test_an_end_that_races_a_timeout_wins",
    ),
    Breakage(
        name="interrupt of whatever runs",
        broken="An interrupt names no prompt.",
        hurts="It stops a stranger's render if ours has just ended.",
        edits=(
            Edit(
                "backends/comfyui/client.py",
                'await self._post("/interrupt", {"prompt_id": _text(prompt_id)})',
                'await self._post("/interrupt", {})',
            ),
        ),
        notices=f"{_FAULTS}::test_an_interrupt_that_comes_too_late_hits_no_stranger",
    ),
    Breakage(
        name="old ComfyUI interrupted",
        broken="A ComfyUI that ignores the interrupt's prompt id is interrupted while other clients wait there.",
        hurts="It stops another client's render if ours has just ended.",
        edits=(Edit(_SESSION, "if why or not is_running:", "if not is_running:"),),
        notices="tests/runner/test_interrupts.py::test_old_comfyui_is_not_interrupted_while_a_foreign_prompt_waits",
    ),
    Breakage(
        name="pending prompt interrupted",
        broken="A cancelled prompt that waits in ComfyUI's queue is interrupted and not deleted.",
        hurts="It starts after all and takes the GPU from whoever is next.",
        edits=(
            Edit(
                _ATTEMPT,
                "await self._context.client.delete_pending([self.prompt_id])",
                "await self._context.interrupter.interrupt(self.prompt_id)",
            ),
        ),
        notices=f"{_FAULTS}::test_a_cancelled_prompt_that_waits_is_deleted_and_never_starts",
    ),
    Breakage(
        name="stop forgotten in a restart",
        broken="A runner that starts does not look for stops that are owed.",
        hurts="What was cancelled while it was down renders to its end.",
        edits=(
            Edit(
                "jobgroups/runner/attempt/spec.py",
                "stop_requested=row.stop_requested_at is not None,",
                "stop_requested=False,",
            ),
            Edit(
                "jobgroups/runner/service.py",
                "held.session.stop_attempts(stops.get(backend_id, ()))",
                "held.session.stop_attempts(())",
            ),
        ),
        notices=f"{_FAULTS}::test_a_stop_asked_for_while_no_runner_lived_is_honoured_by_the_next",
    ),
    Breakage(
        name="struck prompt not sent again",
        broken="A prompt that our interrupt of another one hit counts as stopped by somebody.",
        hurts="Cancelling one group fails a child of another.",
        edits=(Edit(_SESSION, "return self.log.use(prompt_id, since=since, until=until)", "return False"),),
        notices=f"{_FAULTS}::test_a_prompt_hit_by_the_stop_of_ours_is_rendered_again",
    ),
    Breakage(
        name="interrupt used twice",
        broken="An interrupt that ended its target may have ended the next prompt too.",
        hurts="A user's interrupt right after a cancel is ignored: the job is rendered again.",
        edits=(Edit("jobgroups/runner/interrupts.py", "        if target in self._ended:\n", "        if target:\n"),),
        notices="tests/runner/test_interrupts.py::test_user_interrupt_right_after_our_stop_ends_the_job",
    ),
    Breakage(
        name="refused write not repeated",
        broken="A write that the database does not take is not repeated.",
        hurts="A disk that is full for a second ends the runner, and with it every backend's session.",
        edits=(Edit("jobgroups/database/threads.py", "except TRANSIENT as error:", "except () as error:"),),
        notices=f"{_FAULTS}::test_a_database_that_takes_no_writes_for_a_while_costs_lateness_only",
    ),
    Breakage(
        name="refused outputs forgotten",
        broken="The `node_errors` of an accepted prompt are not stored.",
        hurts="A group that wants all outputs completes without some of them.",
        edits=(
            Edit(
                "jobgroups/services/attempts.py",
                "        if node_errors is not None:\n            _note_refused(tx, attempt, node_errors)\n",
                "",
            ),
        ),
        notices=f"{_PARTIAL}::test_refused_output_fails_the_job_when_the_group_wants_all",
    ),
    Breakage(
        name="lost answer refused nothing",
        broken="A prompt whose answer was lost counts as accepted with all its outputs.",
        hurts="A job whose second output ComfyUI refused is shown as completed, without a warning.",
        edits=(Edit("jobgroups/runner/attempt/omissions.py", 'described.get("output_node") is True', "False"),),
        notices=f"{_PARTIAL}::test_lost_answer_of_a_prompt_that_ended_fails_the_job_when_the_group_wants_all",
    ),
    Breakage(
        name="success despite a refusal",
        broken="A prompt that succeeds before it is stopped is its job's result.",
        hurts="A group that wants all outputs completes without some of them, if ComfyUI is quick.",
        edits=(
            Edit(
                "jobgroups/services/attempts.py",
                "if end.state is not AttemptState.SUCCESS and not _stops_for_refusal(attempt):",
                "if end.state is AttemptState.SUCCESS or not _stops_for_refusal(attempt):",
            ),
        ),
        notices=f"{_PARTIAL}::test_success_that_precedes_the_stop_is_no_result_when_the_group_wants_all",
    ),
    Breakage(
        name="blocked node without a word",
        broken="The error frame of a blocked node is dropped.",
        hurts="A job completes without an output, and its user does not learn why.",
        edits=(Edit(_ATTEMPT, "            self._warn(result.blocked(event))\n", ""),),
        notices="tests/runner/test_warnings.py::test_blocked_node_is_a_warning_with_its_message",
    ),
    Breakage(
        name="interrupt under a doubtful lease",
        broken="A prompt is interrupted although the lease was not renewed for long.",
        hurts="The new holder of the lease has sent a prompt there, and the flag stops that one.",
        edits=(
            Edit(
                "jobgroups/runner/attempt/driver.py",
                "        if not self._context.lease_is_fresh:\n            return\n        if lookup.location",
                "        if lookup.location",
            ),
            Edit(
                "jobgroups/runner/interrupts.py",
                "        if self._lease_is_fresh():\n            with self.log",
                "        if True:\n            with self.log",
            ),
        ),
        notices="tests/runner/test_rare_moments.py::test_nothing_is_interrupted_while_the_lease_may_be_anothers",
    ),
    Breakage(
        name="abandoned prompt interrupted under a doubtful lease",
        broken="An abandoned prompt is interrupted although the lease was not renewed for long.",
        hurts="The new holder of the lease may have adopted it: its child would end as interrupted.",
        edits=(
            Edit(
                "jobgroups/runner/interrupts.py",
                "        if self._lease_is_fresh():\n            with self.log",
                "        if True:\n            with self.log",
            ),
        ),
        notices="tests/runner/test_rare_moments.py::test_abandoned_prompt_is_not_interrupted_while_the_lease_may_be_anothers",
    ),
    Breakage(
        name="abandoned prompt deleted under a doubtful lease",
        broken="An abandoned prompt is deleted although the lease was not renewed for long.",
        hurts="The new holder of the lease may have adopted it: its child would wait for nothing.",
        edits=(
            Edit(
                "jobgroups/runner/session/health.py",
                "            if context.lease_is_fresh:\n                await context.client.delete",
                "            if context:\n                await context.client.delete",
            ),
        ),
        notices="tests/runner/test_rare_moments.py::test_abandoned_prompt_is_not_deleted_while_the_lease_may_be_anothers",
    ),
    Breakage(
        name="silent socket kept",
        broken="A socket on which no status follows an accepted prompt is kept.",
        hurts="No progress and no preview of that backend are shown until the runner restarts.",
        edits=(
            Edit(
                "jobgroups/runner/session/sockets.py",
                "            and self._status_at < sent_at\n",
                "            and self._status_at < 0\n",
            ),
        ),
        notices="tests/runner/test_rare_moments.py::test_silent_socket_is_replaced_when_no_status_follows_a_prompt",
    ),
)
