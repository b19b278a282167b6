"""Breakages around the POST: a child sent twice, or never again."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_ATTEMPT = "jobgroups/runner/attempt/driver.py"
_ATTEMPTS = "jobgroups/services/attempts.py"
_CLAIMS = "jobgroups/services/claims.py"
_FAULTS = "tests/runner/test_faults.py"
_ROWS = "tests/db/test_attempt_services.py"

OF_SENDING: tuple[Breakage, ...] = (
    Breakage(
        name="no intent row",
        broken="A claim is sent without being committed.",
        hurts="Killed after the POST, nobody knows of the prompt: the child is rendered twice.",
        edits=(
            Edit(
                _CLAIMS,
                "            claim = _claim(candidate, fence, client_id, depth)\n",
                "            from django.db import transaction\n\n"
                "            with transaction.atomic():\n"
                "                claim = _claim(candidate, fence, client_id, depth)\n"
                "                transaction.set_rollback(True)\n",
            ),
        ),
        notices=f"{_FAULTS}::test_the_intent_is_stored_before_anything_reaches_the_backend",
    ),
    Breakage(
        name="posted again without looking",
        broken="An answer that was lost counts as not sent.",
        hurts="ComfyUI had queued it: the child is rendered twice.",
        edits=(
            Edit(
                _ATTEMPT, "except BackendUnreachable as error:", "except (BackendUnreachable, ResponseLost) as error:"
            ),
        ),
        notices=f"{_FAULTS}::test_a_lost_answer_is_looked_for_and_not_sent_again",
    ),
    Breakage(
        name="exception in ComfyUI posted again",
        broken="ComfyUI's own 500 for an exception in its handler is no refusal.",
        hurts="A workflow that ComfyUI cannot take is posted five times in 160 s; everything behind it waits.",
        edits=(Edit(_ATTEMPT, "return answer.raised or await self._context", "return await self._context"),),
        notices="tests/runner/test_unconfirmed_posts.py::test_exception_in_comfyui_is_a_refusal_after_one_lookup",
    ),
    Breakage(
        name="mark not looked up",
        broken="A prompt whose server chose another id is looked up by the id that was sent.",
        hurts="It is not found there and sent again: the child is rendered twice.",
        edits=(
            Edit("jobgroups/runner/attempt/lookup.py", "if mark is not None and _has_mark(item, mark):", "if False:"),
        ),
        notices="tests/runner/test_unconfirmed_posts.py::test_prompt_queued_under_another_id_is_rendered_once",
    ),
    Breakage(
        name="intent posted again at the start",
        broken="An intent that is found at the start is sent.",
        hurts="The process that died had sent it: ComfyUI runs one id twice.",
        edits=(Edit(_ATTEMPT, "if self.spec.is_new:", "if self.state is AttemptState.INTENT:"),),
        notices=f"{_FAULTS}::test_an_intent_found_at_the_start_is_looked_for_and_not_sent_again",
    ),
    Breakage(
        name="no settle time",
        broken="An uncertain prompt that is absent at the first look was never accepted.",
        hurts="A POST still on its way lands after the child was given to another attempt.",
        edits=(Edit("jobgroups/runner/intervals.py", "accept_timeout: float = 30.0", "accept_timeout: float = 0.0"),),
        notices=f"{_FAULTS}::test_a_post_that_lands_during_the_looks_is_one_render",
    ),
    Breakage(
        name="unanswered looks count",
        broken="Time in which the backend answered no look counts as absence.",
        hurts="A network that was away for 30 s doubles whatever was being sent.",
        edits=(
            Edit(
                _ATTEMPT,
                "            self._absent_since = None\n            self._context.request_failed",
                "            self._context.request_failed",
            ),
        ),
        notices=f"{_FAULTS}::test_looks_that_were_not_answered_prove_no_absence",
    ),
    Breakage(
        name="abandoned prompts forgotten",
        broken="Nobody looks for prompts that were given up as never accepted.",
        hurts="One that lands late renders for nobody, while others wait for the GPU.",
        edits=(Edit("jobgroups/runner/session/health.py", "if not listed:", "if listed is not None:"),),
        notices=f"{_FAULTS}::test_a_prompt_that_lands_after_its_child_went_on_is_deleted_unstarted",
    ),
    Breakage(
        name="same prompt id again",
        broken="A child that is sent again keeps its prompt id.",
        hurts="ComfyUI runs it twice, and nobody can tell the two apart.",
        edits=(
            Edit(_CLAIMS, "prompt_id=str(uuid.uuid4()),", "prompt_id=str(uuid.uuid5(uuid.NAMESPACE_URL, child_id)),"),
        ),
        notices=f"{_ROWS}::test_unsent_attempt_is_requeued_and_not_counted",
    ),
    Breakage(
        name="uncharged retries without end",
        broken="A child may be given back uncharged any number of times.",
        hurts="A backend that swallows prompts keeps a group running for ever.",
        edits=(Edit("jobgroups/services/outcomes.py", "if child.uncounted_attempts + 1 < MAX_UNCOUNTED:", "if True:"),),
        notices=f"{_ROWS}::test_job_fails_after_five_abandoned_prompts",
    ),
    Breakage(
        name="place freed at the cancel",
        broken="A cancelled prompt frees its place before it is seen to end.",
        hurts="Prompts pile up behind a render that cannot be stopped.",
        edits=(
            Edit(
                "jobgroups/services/slots.py",
                "    active = _active(backend_id)\n",
                "    active = [one for one in _active(backend_id) if one.stop_requested_at is None]\n",
            ),
        ),
        notices=f"{_ROWS}::test_claims_are_limited_by_depth_and_stopping_prompts_count",
    ),
    Breakage(
        name="sent behind one that is being stopped",
        broken="A second prompt is sent while the interrupt of the first is under way.",
        hurts="ComfyUI's interrupt flag is process-wide: it stops the second one.",
        edits=(Edit("jobgroups/services/slots.py", "return not stopping and len(active)", "return len(active)"),),
        notices=f"{_ROWS}::test_claims_are_limited_by_depth_and_stopping_prompts_count",
    ),
    Breakage(
        name="old lease trusted",
        broken="A runner sends although its lease was not renewed for long.",
        hurts="Two runners that both believe in their lease send one child each.",
        edits=(Edit("jobgroups/runner/lease_clock.py", " and time.monotonic() - renewed_at <= _HALF_S", ""),),
        notices="tests/runner/test_rare_moments.py::test_nothing_is_sent_while_the_lease_may_be_anothers",
    ),
)
