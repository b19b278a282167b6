"""Breakages around the POST of a prompt."""

from tests.sabotage.breakage import Breakage, Edit

_DRIVER = "jobgroups/runner/attempt/driver.py"

OF_PROMPTS: tuple[Breakage, ...] = (
    Breakage(
        "A prompt is sent without a committed claim.",
        "If the process is killed after the POST, no row has the prompt: it is executed twice.",
        "runner/test_faults.py::test_the_intent_is_stored_before_anything_reaches_the_backend",
        Edit(
            "jobgroups/services/claims.py",
            "claim = _claim_bound(bound, fence, client_id, depth)",
            "from django.db import transaction\n"
            "\n"
            "            with transaction.atomic():\n"
            "                claim = _claim_bound(bound, fence, client_id, depth)\n"
            "                transaction.set_rollback(True)",
        ),
    ),
    Breakage(
        "A lost response counts as not sent.",
        "If ComfyUI has queued the prompt, the job is executed twice.",
        "runner/test_faults.py::test_a_lost_answer_is_looked_for_and_not_sent_again",
        Edit(_DRIVER, "except BackendUnreachable", "except (BackendUnreachable, ResponseLost)"),
    ),
    Breakage(
        "ComfyUI's own 500 for an exception in its handler is no refusal.",
        "A workflow that ComfyUI cannot handle is posted five times in 160 s; other jobs wait.",
        "runner/test_faults.py::test_exception_in_comfyui_is_a_refusal_after_one_lookup",
        Edit(_DRIVER, "return answer.raised or await self", "return await self"),
    ),
    Breakage(
        "A prompt with another id than the one sent is not found by its mark.",
        "It is sent again: the job is executed twice.",
        "runner/test_faults.py::test_prompt_queued_under_another_id_is_rendered_once",
        Edit("jobgroups/runner/attempt/lookup.py", "if mark is not None and _has_mark(item, mark):", "if False:"),
    ),
    Breakage(
        "An intent that is found at the start is sent.",
        "The process that ended had sent it: ComfyUI executes one id twice.",
        "runner/test_faults.py::test_an_intent_found_at_the_start_is_looked_for_and_not_sent_again",
        Edit(_DRIVER, "if self.spec.is_new:", "if self.state is AttemptState.INTENT:"),
    ),
    Breakage(
        "An uncertain prompt that the first lookup does not find was never accepted.",
        "A delayed POST arrives after the job has another attempt.",
        "runner/test_faults.py::test_a_post_that_lands_during_the_looks_is_one_render",
        Edit("jobgroups/runner/intervals.py", "accept_timeout: float = 30.0", "accept_timeout: float = 0.0"),
    ),
    Breakage(
        "Failed lookups count as absence of the prompt.",
        "After a network failure of 30 s, every prompt that was being sent is sent again.",
        "runner/test_faults.py::test_looks_that_were_not_answered_prove_no_absence",
        Edit(_DRIVER, "self._absent_since = None\n            self._context", "self._context"),
    ),
    Breakage(
        "Abandoned prompts are not looked up.",
        "A prompt that arrives late runs without a job, while other jobs wait for the GPU.",
        "runner/test_faults.py::test_a_prompt_that_lands_after_its_child_went_on_is_deleted_unstarted",
        Edit("jobgroups/runner/session/health.py", "if not listed:", "if listed is not None:"),
    ),
    Breakage(
        "A job that is sent again keeps its prompt id.",
        "ComfyUI executes the id twice, and the two cannot be distinguished.",
        "db/test_attempt_services.py::test_unsent_attempt_is_requeued_and_not_counted",
        Edit("jobgroups/services/claims.py", "uuid.uuid4()", "uuid.uuid5(uuid.NAMESPACE_URL, child.id)"),
    ),
    Breakage(
        "A job is requeued uncounted without a limit.",
        "A backend that loses every prompt keeps a group running without end.",
        "db/test_attempt_services.py::test_job_fails_after_five_abandoned_prompts",
        Edit("jobgroups/services/outcomes.py", "if child.uncounted_attempts + 1 < MAX_UNCOUNTED:", "if True:"),
    ),
    Breakage(
        "A cancelled prompt frees its slot before its end is known.",
        "Prompts queue up behind a render that cannot be stopped.",
        "db/test_attempt_services.py::test_claims_are_limited_by_depth_and_stopping_prompts_count",
        Edit(
            "jobgroups/services/slots.py",
            "active = _active(backend_id)",
            "active = [attempt for attempt in _active(backend_id) if attempt.stop_requested_at is None]",
        ),
    ),
    Breakage(
        "A second prompt is sent while the first one is being interrupted.",
        "ComfyUI's interrupt flag is process-wide: it stops the second one.",
        "db/test_attempt_services.py::test_claims_are_limited_by_depth_and_stopping_prompts_count",
        Edit("jobgroups/services/slots.py", "row is not None and not stopping and", "row is not None and"),
    ),
    Breakage(
        "A runner sends although its lease was not renewed for long.",
        "Two runners send one job each to one backend.",
        "runner/test_rare_moments.py::test_nothing_is_sent_while_the_lease_may_be_anothers",
        Edit("jobgroups/runner/lease_clock.py", " and time.monotonic() - renewed_at <= _HALF_S", ""),
    ),
)
