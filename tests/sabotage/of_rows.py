"""Breakages of stored rows, events and files."""

from tests.sabotage.breakage import Breakage, Edit

_DRIVER = "jobgroups/runner/attempt/driver.py"
_GROUP_TRANSACTION = "jobgroups/services/group_transaction.py"
_LEASES = "jobgroups/services/leases.py"
_PURGE = "jobgroups/services/purge.py"

OF_ROWS: tuple[Breakage, ...] = (
    Breakage(
        "Outputs whose file a later job has written are not marked.",
        "A job shows the image of another seed.",
        "db/test_files.py::test_later_job_replaces_the_file_of_an_earlier_one",
        Edit("jobgroups/services/files.py", "elif reported[digest]:", "elif reported[digest] and not executed:"),
    ),
    Breakage(
        "A file from ComfyUI's cache counts as written again.",
        "The first of two jobs with one seed loses its image.",
        "db/test_files.py::test_cached_result_replaces_nothing_and_shares_the_file",
        Edit("jobgroups/domain/outputs.py", "node in executed and item", "item"),
    ),
    Breakage(
        "A file from ComfyUI's cache is not compared with the node that wrote it.",
        "A job shows the image of another seed that has the name of its own removed file.",
        "outputs/test_replaced.py::test_a_cached_node_does_not_show_the_file_that_another_node_wrote",
        Edit(_DRIVER, " or (node in own and writers.get(digest, own[node]) != own[node])", ""),
    ),
    Breakage(
        "The date of a file is not compared with the end of its job.",
        "A file of another client's prompt is shown for the job.",
        "outputs/test_replaced.py::test_a_file_written_after_the_end_of_its_job_is_not_its_own",
        Edit("jobgroups/outputs/download.py", "if _is_younger(file, answer):", "if False:"),
    ),
    Breakage(
        "A job is moved from any status.",
        "A cancelled job becomes completed when its render ends.",
        "db/test_attempt_services.py::test_late_result_of_a_cancelled_job_is_stored_on_its_attempt_only",
        Edit(_GROUP_TRANSACTION, " child.pk, moved, status=sources_of(to)", " child.pk, moved"),
    ),
    Breakage(
        "The result of an abandoned attempt ends its job.",
        "A job shows one attempt's image while another attempt still runs.",
        "db/test_attempt_services.py::test_abandoned_prompt_is_not_adopted_when_its_job_has_a_newer_attempt",
        Edit("jobgroups/services/attempts.py", "if child.current_attempt_id == attempt.pk:", "if child.pk:"),
        Edit(_GROUP_TRANSACTION, "current = {} if attempt is None else {", "current = {} if True else {"),
    ),
    Breakage(
        "A group's status is derived from rows that were read before its lock.",
        "Two jobs that end at once each find the other one open: no `group_complete`.",
        "db/test_attempt_services.py::test_group_completes_once_when_its_last_jobs_end_together",
        Edit(
            "jobgroups/services/transactions.py",
            "    with transaction.atomic():\n"
            "        verify_fence(fence)\n"
            "        with _group_locked(group_id) as tx:\n",
            "    group = JobGroup.objects.filter(pk=group_id).first()\n"
            "    with transaction.atomic():\n"
            "        verify_fence(fence)\n"
            "        with _group_locked(group_id, group) as tx:\n",
        ),
        Edit(
            "jobgroups/services/transactions.py",
            "def _group_locked(group_id: str) -> Iterator[GroupTransaction]:\n"
            "    group = _locked_group.first(group_id)\n",
            "def _group_locked(group_id: str, group: JobGroup | None = None)"
            " -> Iterator[GroupTransaction]:\n"
            "    group = group or _locked_group.first(group_id)\n",
        ),
    ),
    Breakage(
        "The epoch of a lease is not compared before a write.",
        "A stale runner overwrites the rows of its successor.",
        "db/test_attempt_services.py::test_stale_fencing_token_writes_nothing",
        Edit(_LEASES, "if epochs.get(fence.backend_id) != fence.epoch:", "if fence.backend_id not in epochs:"),
    ),
    Breakage(
        "A lease that is taken over keeps its epoch.",
        "The fencing token of the stale runner stays valid.",
        "db/test_attempt_services.py::test_stale_fencing_token_writes_nothing",
        Edit(_LEASES, 'epoch=F("epoch") + 1', 'epoch=F("epoch")'),
        Edit(_LEASES, "lease.epoch + 1)", "lease.epoch)"),
    ),
    Breakage(
        "SQLite does not sync each commit.",
        "A power cut loses an intent whose prompt is running: the job is executed twice.",
        "db/test_transactions.py::test_every_commit_but_progress_is_synced",
        Edit("director/settings.py", "PRAGMA synchronous=FULL;", "PRAGMA synchronous=NORMAL;"),
    ),
    Breakage(
        "Subscribers are notified before the commit.",
        "Clients get events that are rolled back or cannot be read yet.",
        "db/test_events.py::test_nothing_is_published_before_the_commit",
        Edit(
            "jobgroups/events/log.py",
            "transaction.on_commit(lambda: hub.publish(message), robust=True)",
            "hub.publish(message)",
        ),
    ),
    Breakage(
        "An event is published and not stored.",
        "A client that was disconnected never gets it.",
        "db/test_events.py::test_one_transaction_publishes_one_message_with_its_frames",
        Edit("jobgroups/events/log.py", "    insert(rows)\n", ""),
    ),
    Breakage(
        "Events are numbered over the whole table and not within their group.",
        "Every client finds gaps without end and reads the events again and again.",
        "db/test_events.py::test_events_of_each_group_are_numbered_without_a_gap",
        Edit("jobgroups/events/log.py", "rows = [", "group.seq = JobEvent.objects.count()\n    rows = ["),
    ),
    Breakage(
        "`since` starts with the event that the client names.",
        "After each reconnect an event is applied twice.",
        "ws/test_stream.py::test_since_resumes_right_after_the_known_event",
        Edit("jobgroups/queries/groups.py", "return since, None", "return max(since - 1, 0), None"),
    ),
    Breakage(
        "A socket skips a missing event.",
        "An ended job looks as if it still ran.",
        "ws/test_stream.py::test_lost_events_are_read_from_the_database",
        Edit("jobgroups/consumers/stream.py", "return seq > self.sent + 1", "return False"),
    ),
    Breakage(
        "The stored `seq` of a group is not compared with the published one.",
        "If the last notification is lost, a client waits for `group_complete` without end.",
        "unit/test_hub.py::test_timer_sends_one_hint_if_the_log_is_ahead",
        Edit("jobgroups/events/hub.py", "if self._advance(seq):", "if False:"),
        within=10,
    ),
    Breakage(
        "Progress of a job that does not run is sent.",
        "A failed job is shown with 99 % again.",
        "ws/test_stream.py::test_no_progress_after_the_end_of_a_child",
        Edit("jobgroups/consumers/stream.py", "fits = child.running and frame.attempt", "fits = frame.attempt"),
    ),
    Breakage(
        "A unit of work returns before the transaction that it shares is committed.",
        "A prompt is sent whose intent a power cut loses: it is executed a second time.",
        "db/test_transactions.py::test_result_is_returned_after_the_commit",
        Edit(
            "jobgroups/database/threads.py",
            "outcomes.append(_outcome_in_transaction(job.work))",
            "outcomes.append(_outcome_in_transaction(job.work))\n"
            "                for job, outcome in zip(jobs, outcomes, strict=True):\n"
            "                    job.set_result(*outcome)\n"
            "                import time; time.sleep(0.2)\n"
            "            return",
        ),
    ),
    Breakage(
        "The first of several units of work is noted only after the transaction has begun.",
        "If it cannot begin, the end of a prompt is not stored until the next start.",
        "db/test_transactions.py::test_every_unit_gets_an_error_when_the_transaction_cannot_begin",
        Edit("jobgroups/database/threads.py", "jobs = [first]", "jobs = []"),
        Edit("jobgroups/database/threads.py", "outcomes = ", "jobs.append(first)\n                outcomes = "),
    ),
    Breakage(
        "Units of work that share a transaction fail together.",
        "One row that the database refuses keeps all other ends from being stored.",
        "db/test_transactions.py::test_error_of_one_unit_does_not_affect_the_others",
        Edit(
            "jobgroups/database/threads.py",
            "for job in jobs:\n                job.run()",
            "for job in jobs:\n                job.set_result(None, _BatchAborted())",
        ),
    ),
    Breakage(
        "An idempotency key is kept for 14 minutes.",
        "A client that was offline for an hour repeats its request: all jobs are executed twice.",
        "api/test_submission.py::test_key_is_remembered_for_a_day",
        Edit("jobgroups/services/submission.py", "dt.timedelta(hours=24)", "dt.timedelta(minutes=14)"),
    ),
    Breakage(
        "The retention deletes groups with a starred job.",
        "The images that a user wanted to keep are gone.",
        "db/test_purging.py::test_limit_of_groups_keeps_those_that_ended_last_and_stars",
        Edit(_PURGE, "if not limits.starred:", "if False:"),
    ),
    Breakage(
        "The retention deletes a group of which a prompt may still run.",
        "Nothing stops the prompt, and its images belong to no job.",
        "db/test_purging.py::test_purge_keeps_a_group",
        Edit(_PURGE, "deletable.filter(~Exists(running), ~Exists(abandoned))", "deletable"),
    ),
    Breakage(
        "A group whose status is derived again completes again.",
        "Clients get a second `group_complete`, and users a second notification.",
        "db/test_group_services.py::test_group_does_not_complete_twice_when_its_status_is_derived_again",
        Edit(_GROUP_TRANSACTION, " counts.all_final and group.completed_at is None", " counts.all_final"),
    ),
    Breakage(
        "A transaction on SQLite acquires the write lock only with its first write.",
        "It fails if another process wrote since its first read: `database is locked`.",
        "db/test_transactions.py::test_transaction_that_has_only_read_keeps_other_writers_out",
        Edit("director/settings.py", '"transaction_mode": "IMMEDIATE"', '"transaction_mode": "DEFERRED"'),
    ),
)
