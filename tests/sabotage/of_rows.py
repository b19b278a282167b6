"""Breakages of what is stored and told: two results, a second end, a lost or doubled event."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_EVENTS = "jobgroups/events/log.py"
_STREAM = "jobgroups/consumers/stream.py"
_BRIDGE = "jobgroups/database/threads.py"
_TOGETHER = "tests/db/test_committed_together.py"
_ROWS = "tests/db/test_attempt_services.py"
_TOLD = "tests/db/test_events.py"
_STREAMED = "tests/ws/test_stream.py"

_FILES = "tests/db/test_files.py"

OF_ROWS: tuple[Breakage, ...] = (
    Breakage(
        name="replaced file served",
        broken="The outputs of jobs whose file a later job has written are not marked.",
        hurts="A job shows the picture of another seed under its own.",
        edits=(
            Edit(
                "jobgroups/services/files.py",
                "        elif reported[digest]:\n",
                "        elif reported[digest] and not executed:\n",
            ),
        ),
        notices=f"{_FILES}::test_later_job_replaces_the_file_of_an_earlier_one",
    ),
    Breakage(
        name="cached answer replaces",
        broken="A file that ComfyUI's cache reported again counts as written anew.",
        hurts="The first of two jobs with one seed loses its picture.",
        edits=(Edit("jobgroups/domain/outputs.py", "node in executed and item", "item"),),
        notices=f"{_FILES}::test_cached_result_replaces_nothing_and_shares_the_file",
    ),
    Breakage(
        name="cached name believed",
        broken="A file that ComfyUI's cache names is not compared with the node that wrote it.",
        hurts="A job shows the picture of another seed that has the name of its own removed file.",
        edits=(
            Edit(
                "jobgroups/runner/attempt/driver.py",
                "if made[one] or (node in own and writers.get(one, own[node]) != own[node])",
                "if made[one]",
            ),
        ),
        notices=("tests/outputs/test_replaced.py::test_a_cached_node_does_not_show_the_file_that_another_node_wrote"),
    ),
    Breakage(
        name="younger file served",
        broken="The date of a file is not compared with the end of its job.",
        hurts="A file that another client's prompt wrote is shown for the job.",
        edits=(
            Edit(
                "jobgroups/outputs/download.py",
                "            if _is_younger(file, answer):\n",
                "            if False:\n",
            ),
        ),
        notices=("tests/outputs/test_replaced.py::test_a_file_written_after_the_end_of_its_job_is_not_its_own"),
    ),
    Breakage(
        name="final state overwritten",
        broken="A child is moved whatever its status is.",
        hurts="A cancelled child turns completed when its render ends after all.",
        edits=(
            Edit(
                "jobgroups/services/group_transaction.py",
                "update_where(ChildJob, child.pk, moved, status=sources_of(to), **current)",
                "update_where(ChildJob, child.pk, moved, **current)",
            ),
        ),
        notices=f"{_ROWS}::test_late_result_of_a_cancelled_job_is_stored_on_its_attempt_only",
    ),
    Breakage(
        name="late result decides",
        broken="The result of an attempt that was given up ends its child.",
        hurts="A child shows one attempt's picture while another is still rendering it.",
        edits=(
            Edit(
                "jobgroups/services/attempts.py",
                "        if child.current_attempt_id == attempt.pk:\n            end_child(",
                "        if child.pk:\n            end_child(",
            ),
            Edit(
                "jobgroups/services/group_transaction.py",
                "current = {} if attempt is None else {",
                "current = {} if True else {",
            ),
        ),
        notices=f"{_ROWS}::test_abandoned_prompt_is_not_adopted_when_its_job_has_a_newer_attempt",
    ),
    Breakage(
        name="group read before its lock",
        broken="A group is read before it is locked, and its end derived from that.",
        hurts="Two children that end at once each see the other one open: no `group_complete`.",
        edits=(
            Edit(
                "jobgroups/services/transactions.py",
                "    with transaction.atomic():\n"
                "        verify_fence(fence)\n"
                "        group = _locked_group.first(group_id)\n",
                "    group = JobGroup.objects.filter(pk=group_id).first()\n"
                "    with transaction.atomic():\n"
                "        verify_fence(fence)\n",
            ),
        ),
        notices=f"{_ROWS}::test_group_completes_once_when_its_last_jobs_end_together",
    ),
    Breakage(
        name="fence not compared",
        broken="A lease's epoch is not compared before a write.",
        hurts="A runner that was taken for dead overwrites what its successor stored.",
        edits=(
            Edit(
                "jobgroups/services/leases.py",
                "if epochs.get(fence.backend_id) != fence.epoch:",
                "if fence.backend_id not in epochs:",
            ),
        ),
        notices=f"{_ROWS}::test_stale_fencing_token_writes_nothing",
    ),
    Breakage(
        name="epoch not raised",
        broken="A lease that is taken over keeps its epoch.",
        hurts="The fence of a runner that was taken for dead stays valid.",
        edits=(
            Edit("jobgroups/services/leases.py", 'epoch=F("epoch") + 1', 'epoch=F("epoch")'),
            Edit("jobgroups/services/leases.py", "lease.epoch + 1)", "lease.epoch)"),
        ),
        notices=f"{_ROWS}::test_stale_fencing_token_writes_nothing",
    ),
    Breakage(
        name="commits not synced",
        broken="SQLite does not sync each commit.",
        hurts="A power cut loses an intent whose prompt is running: the child is rendered twice.",
        edits=(Edit("director/settings.py", "PRAGMA synchronous=FULL;", "PRAGMA synchronous=NORMAL;"),),
        notices="tests/db/test_durability.py::test_every_commit_but_progress_is_synced",
    ),
    Breakage(
        name="ring before the commit",
        broken="An event is told before its transaction is committed.",
        hurts="Clients hear of what is then rolled back, and of what they cannot read yet.",
        edits=(Edit(_EVENTS, "transaction.on_commit(callback, robust=True)", "callback()"),),
        notices=f"{_TOLD}::test_nothing_is_published_before_the_commit",
    ),
    Breakage(
        name="ring without a row",
        broken="An event is told and not stored.",
        hurts="Whoever was away for a moment never learns of it.",
        edits=(Edit(_EVENTS, "    insert(rows)\n", ""),),
        notices=f"{_TOLD}::test_one_transaction_publishes_one_message_with_its_frames",
    ),
    Breakage(
        name="seq not from the group",
        broken="Events are numbered by the whole table and not by their group.",
        hurts="Every client of every group sees gaps for ever, and reads the rows again and again.",
        edits=(
            Edit(
                _EVENTS,
                "    moment = now()\n    rows = [\n",
                "    moment = now()\n    group.seq = JobEvent.objects.count()\n    rows = [\n",
            ),
        ),
        notices=f"{_TOLD}::test_events_of_each_group_are_numbered_without_a_gap",
    ),
    Breakage(
        name="since off by one",
        broken="`since` starts with the event that the client names.",
        hurts="After each reconnect an event is applied twice.",
        edits=(
            Edit("jobgroups/queries/groups.py", "        return since, None", "        return max(since - 1, 0), None"),
        ),
        notices=f"{_STREAMED}::test_since_resumes_right_after_the_known_event",
    ),
    Breakage(
        name="gap not healed",
        broken="A socket that misses an event goes on with the next one.",
        hurts="A child that has ended looks as if it ran for ever.",
        edits=(Edit(_STREAM, "return seq > self.sent + 1", "return False"),),
        notices=f"{_STREAMED}::test_lost_events_are_read_from_the_database",
    ),
    Breakage(
        name="lost last event not healed",
        broken="Nobody compares the log's length with what was heard.",
        hurts="If the last ring is lost, a client waits for `group_complete` for ever.",
        edits=(Edit("jobgroups/events/hub.py", "if self._advance(seq):", "if False:"),),
        notices="tests/unit/test_hub.py::test_timer_sends_one_hint_if_the_log_is_ahead",
        within=10,
    ),
    Breakage(
        name="progress after the end",
        broken="Progress is sent of a child that does not run.",
        hurts="A failed child goes back to 99 % on the page.",
        edits=(Edit(_STREAM, "fits = child.running and frame.attempt", "fits = frame.attempt"),),
        notices=f"{_STREAMED}::test_no_progress_after_the_end_of_a_child",
    ),
    Breakage(
        name="told before the commit",
        broken="Who waits for a unit of work is told of it before the transaction that it shares ends.",
        hurts="A prompt is sent whose intent a power cut takes away: it is rendered a second time.",
        edits=(
            Edit(
                _BRIDGE,
                "                    outcomes.append(_outcome_in_transaction(job.work))\n",
                "                    outcomes.append(_outcome_in_transaction(job.work))\n"
                "                for job, outcome in zip(jobs, outcomes, strict=True):\n"
                "                    job.set_result(*outcome)\n"
                "                import time; time.sleep(0.2)\n"
                "            return\n",
            ),
        ),
        notices=f"{_TOGETHER}::test_result_is_returned_after_the_commit",
    ),
    Breakage(
        name="first unit of work forgotten",
        broken="Of units of work that share a commit, the first is noted once the transaction has begun.",
        hurts="Where it cannot begin, the end of a render is not stored until the next start.",
        edits=(
            Edit(_BRIDGE, "        jobs = [first]\n", "        jobs = []\n"),
            Edit(
                _BRIDGE,
                "                outcomes = [_outcome_in_transaction(first.work)]\n",
                "                jobs.append(first)\n"
                "                outcomes = [_outcome_in_transaction(first.work)]\n",
            ),
        ),
        notices=f"{_TOGETHER}::test_every_unit_gets_an_error_when_the_transaction_cannot_begin",
    ),
    Breakage(
        name="one unit of work spoils all",
        broken="Units of work that share a commit are refused together.",
        hurts="One row that the database does not take keeps every other end from being stored.",
        edits=(
            Edit(
                _BRIDGE,
                "            for job in jobs:\n                job.run()\n",
                "            for job in jobs:\n                job.set_result(None, _BatchAborted())\n",
            ),
        ),
        notices=f"{_TOGETHER}::test_error_of_one_unit_does_not_affect_the_others",
    ),
    Breakage(
        name="idempotency key forgotten early",
        broken="An idempotency key is remembered for 14 minutes.",
        hurts="A program that was away for an hour sends its request again: all is rendered twice.",
        edits=(
            Edit(
                "jobgroups/services/submission.py",
                "IDEMPOTENCY_TTL: Final = dt.timedelta(hours=24)",
                "IDEMPOTENCY_TTL: Final = dt.timedelta(minutes=14)",
            ),
        ),
        notices="tests/api/test_submission.py::test_key_is_remembered_for_a_day",
    ),
    Breakage(
        name="complete group completes again",
        broken="A group whose status is derived again completes again.",
        hurts="Clients get a second `group_complete`, and users a second notice.",
        edits=(
            Edit(
                "jobgroups/services/group_transaction.py",
                "ended = counts.all_final and group.completed_at is None",
                "ended = counts.all_final",
            ),
        ),
        notices=(
            "tests/db/test_group_services.py::test_group_does_not_complete_twice_when_its_status_is_derived_again"
        ),
    ),
    Breakage(
        name="SQLite transactions deferred",
        broken="A transaction on SQLite takes the write lock with its first write only.",
        hurts="It fails if another process wrote since its first read: `database is locked`.",
        edits=(Edit("director/settings.py", '"transaction_mode": "IMMEDIATE"', '"transaction_mode": "DEFERRED"'),),
        notices=("tests/db/test_durability.py::test_transaction_that_has_only_read_keeps_other_writers_out"),
    ),
)
