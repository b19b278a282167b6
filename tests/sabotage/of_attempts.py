"""Breakages between the acceptance of a prompt and its end."""

from tests.sabotage.breakage import Breakage, Edit

_CLIENT = "backends/comfyui/client.py"
_DRIVER = "jobgroups/runner/attempt/driver.py"
_OMISSIONS = "jobgroups/runner/attempt/omissions.py"
_INTERRUPTS = "jobgroups/runner/interrupts.py"
_SERVICE = "jobgroups/runner/service.py"
_SOCKETS = "jobgroups/runner/session/sockets.py"
_ATTEMPTS = "jobgroups/services/attempts.py"

OF_ATTEMPTS: tuple[Breakage, ...] = (
    Breakage(
        "After a reconnect only the new socket's client id is subscribed.",
        "ComfyUI sends the events of older prompts to the old client id: they are lost.",
        "runner/test_rare_moments.py::test_a_prompt_claimed_while_its_socket_breaks_is_heard_all_the_same",
        Edit(_SOCKETS, "client_id != self._main_id and client_id not in self._follows", "False"),
    ),
    Breakage(
        "An `execution_error` frame ends the job without reading the history.",
        "A prompt with one blocked output fails although its other outputs are being made.",
        "runner/test_faults.py::test_an_error_frame_alone_ends_nothing",
        Edit(
            _DRIVER,
            "if self._closing_frame and not self._done:",
            "if isinstance(self._heard_end, ExecutionError) and not self._done:\n"
            "            await self._result_without_history()\n"
            "        if self._closing_frame and not self._done:",
        ),
    ),
    Breakage(
        "The cancel of a running job is repeated as late as an interrupt.",
        "A cancel in the first milliseconds of a prompt is forgotten: the GPU renders on for 2 s.",
        "runner/test_faults.py::test_a_lost_interrupt_is_repeated_until_the_end_is_seen",
        Edit(_DRIVER, "if sent.is_cancel:", "if False:"),
    ),
    Breakage(
        "An answer to the query of a job that is not ComfyUI's counts as the absence of the prompt.",
        "After a downgrade of ComfyUI its running prompts are lost, and rendered twice.",
        "runner/test_faults.py::test_prompt_is_looked_up_and_stopped_as_a_job_or_as_before",
        Edit("backends/comfyui/client.py", "return 0, answers.Job()", 'return 404, answers.Job(error="Job not found")'),
    ),
    Breakage(
        "A running prompt that one lookup does not find is stored as lost.",
        "ComfyUI writes the history a moment after the end: a finished render fails.",
        "runner/test_faults.py::test_an_end_that_a_look_just_misses_is_no_loss",
        Edit(_DRIVER, "if absent_for < self._intervals.stop_retry:", "if False:"),
    ),
    Breakage(
        "A job's timeout counts from the acceptance.",
        "A job behind another user's long render times out without having run.",
        "runner/test_faults.py::test_waiting_in_the_backends_queue_takes_nothing_of_the_timeout",
        Edit(
            _DRIVER,
            "attempt_accepted, prompt_id=other_id, node_errors=node_errors)",
            "attempt_accepted, prompt_id=other_id, node_errors=node_errors)\n        self._limits.start()",
        ),
    ),
    Breakage(
        "`stall_seconds` does not start again when a broken event socket is open again.",
        "A long render ends as stalled although the events that ComfyUI sent meanwhile were lost.",
        "runner/test_stalls.py::test_stall_counts_from_the_moment_at_which_events_are_received_again",
        Edit(_SOCKETS, "                        self._attempts.socket_opened(client_id)\n", ""),
    ),
    Breakage(
        "A timeout is stored without reading the history first.",
        "A render that ended in time, but whose event was lost, is discarded.",
        "runner/test_faults.py::test_an_end_that_races_a_timeout_wins",
        Edit(
            _DRIVER, "lookup is not None and lookup.location in (PromptLocation.ENDED, PromptLocation.ABSENT)", "False"
        ),
    ),
    Breakage(
        "An interrupt names no prompt.",
        "It stops another client's render if our prompt has just ended.",
        "runner/test_faults.py::test_an_interrupt_that_comes_too_late_hits_no_stranger",
        Edit(_CLIENT, '"/interrupt", {"prompt_id": _text(prompt_id)}', '"/interrupt", {}'),
    ),
    Breakage(
        "A ComfyUI that ignores the id of an interrupt is interrupted while other clients wait.",
        "It stops another client's render if our prompt has just ended.",
        "runner/test_interrupts.py::test_old_comfyui_is_not_interrupted_while_a_foreign_prompt_waits",
        Edit(_INTERRUPTS, "if why or not is_running:", "if not is_running:"),
    ),
    Breakage(
        "A cancelled pending prompt is interrupted and not deleted.",
        "It starts later and occupies the GPU.",
        "runner/test_faults.py::test_a_cancelled_prompt_that_waits_is_deleted_and_never_starts",
        Edit(
            _DRIVER,
            "await self._context.client.delete_pending([self.prompt_id])",
            "await self._context.interrupter.interrupt(self.prompt_id)",
        ),
    ),
    Breakage(
        "A starting runner ignores pending stops.",
        "A job that was cancelled while no runner lived is rendered to its end.",
        "runner/test_faults.py::test_a_stop_asked_for_while_no_runner_lived_is_honoured_by_the_next",
        Edit("jobgroups/runner/attempt/spec.py", "row.stop_requested_at is not None", "False"),
        Edit(_SERVICE, "stop_attempts(stops.get(backend_id, ()))", "stop_attempts(())"),
    ),
    Breakage(
        "A prompt that was interrupted by another prompt's stop counts as stopped by a user.",
        "Cancelling one group fails a job of another.",
        "runner/test_faults.py::test_a_prompt_hit_by_the_stop_of_ours_is_rendered_again",
        Edit(_INTERRUPTS, "self.log.use(prompt_id, since=since, until=until)", "False"),
    ),
    Breakage(
        "An interrupt that ended its target may explain the end of the next prompt too.",
        "A user's interrupt right after a cancel is ignored: the job is executed again.",
        "runner/test_interrupts.py::test_user_interrupt_right_after_our_stop_ends_the_job",
        Edit(_INTERRUPTS, "if target in self._ended:", "if target:"),
    ),
    Breakage(
        "A write that the database refuses is not repeated.",
        "A disk that is full for a second ends the runner with all its sessions.",
        "runner/test_faults.py::test_a_database_that_takes_no_writes_for_a_while_costs_lateness_only",
        Edit("jobgroups/database/threads.py", "except TRANSIENT as error:", "except () as error:"),
    ),
    Breakage(
        "The `node_errors` of an accepted prompt are not stored.",
        "A group that requires all outputs completes without some of them.",
        "runner/test_partial_outputs.py::test_refused_output_fails_the_job_when_the_group_wants_all",
        Edit(
            _ATTEMPTS, "        if node_errors is not None:\n            _note_refused(tx, attempt, node_errors)\n", ""
        ),
    ),
    Breakage(
        "A prompt whose response was lost counts as accepted with all its outputs.",
        "A job whose second output ComfyUI refused is completed without a warning.",
        "runner/test_partial_outputs.py::test_lost_answer_of_an_ended_prompt_fails_the_job_when_the_group_wants_all",
        Edit(_OMISSIONS, 'described.get("output_node") is True', "False"),
    ),
    Breakage(
        "A prompt that succeeds before it is stopped is its job's result.",
        "A group that requires all outputs completes without some of them, if ComfyUI is quick.",
        "runner/test_partial_outputs.py::test_success_that_precedes_the_stop_is_no_result_when_the_group_wants_all",
        Edit(_ATTEMPTS, "is not AttemptState.SUCCESS and", "is AttemptState.SUCCESS or"),
    ),
    Breakage(
        "The error frame of a blocked node is dropped.",
        "A job completes without an output, and the reason is not shown.",
        "runner/test_partial_outputs.py::test_blocked_node_is_a_warning_with_its_message",
        Edit(_DRIVER, "            self._warn(result.blocked(event))\n", ""),
    ),
    Breakage(
        "A prompt is interrupted although the lease was not renewed for long.",
        "The interrupt stops a prompt of the lease's new holder.",
        "runner/test_rare_moments.py::test_nothing_is_interrupted_while_the_lease_may_be_anothers",
        Edit(_DRIVER, "if not self._context.lease_is_fresh:\n            return\n        if", "if"),
        Edit(_INTERRUPTS, "if self._lease_is_fresh():", "if True:"),
    ),
    Breakage(
        "An abandoned prompt is interrupted although the lease was not renewed for long.",
        "The lease's new holder may have adopted it: its job ends as interrupted.",
        "runner/test_rare_moments.py::test_abandoned_prompt_is_not_interrupted_while_the_lease_may_be_anothers",
        Edit(_INTERRUPTS, "if self._lease_is_fresh():", "if True:"),
    ),
    Breakage(
        "An abandoned prompt is deleted although the lease was not renewed for long.",
        "The lease's new holder may have adopted it: its job waits without need.",
        "runner/test_rare_moments.py::test_abandoned_prompt_is_not_deleted_while_the_lease_may_be_anothers",
        Edit("jobgroups/runner/session/health.py", "if context.lease_is_fresh:", "if context:"),
    ),
    Breakage(
        "A socket without a status frame after an accepted prompt is kept.",
        "No progress and no preview of that backend are shown until the runner restarts.",
        "runner/test_rare_moments.py::test_silent_socket_is_replaced_when_no_status_follows_a_prompt",
        Edit(_SOCKETS, "and self._status_at < sent_at", "and self._status_at < 0"),
    ),
)
