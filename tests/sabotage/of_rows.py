"""Breakages of stored rows, events and files."""

from tests.sabotage.breakage import Breakage, Edit

_SETTINGS = "director/settings.py"
_STREAM = "jobgroups/consumers/stream.py"
_THREADS = "jobgroups/database/threads.py"
_LOG = "jobgroups/events/log.py"
_DRIVER = "jobgroups/runner/attempt/driver.py"
_ATTEMPTS = "jobgroups/services/attempts.py"
_FILES = "jobgroups/services/files.py"
_GROUP_TRANSACTION = "jobgroups/services/group_transaction.py"
_LEASES = "jobgroups/services/leases.py"
_SUBMISSION = "jobgroups/services/submission.py"
_DB_ATTEMPT_SERVICES = "tests/db/test_attempt_services.py"
_DB_EVENTS = "tests/db/test_events.py"
_DB_FILES = "tests/db/test_files.py"
_DB_GROUP_SERVICES = "tests/db/test_group_services.py"
_DB_TRANSACTIONS = "tests/db/test_transactions.py"
_OUTPUTS_REPLACED = "tests/outputs/test_replaced.py"
_WS_STREAM = "tests/ws/test_stream.py"

OF_ROWS: tuple[Breakage, ...] = (
    Breakage(
        "Outputs whose file a later job has written are not marked.",
        "A job shows the image of another seed.",
        f"{_DB_FILES}::test_later_job_replaces_the_file_of_an_earlier_one",
        Edit(_FILES, "elif reported[digest]:", "elif reported[digest] and not executed:"),
    ),
    Breakage(
        "A file from ComfyUI's cache counts as written again.",
        "The first of two jobs with one seed loses its image.",
        f"{_DB_FILES}::test_cached_result_replaces_nothing_and_shares_the_file",
        Edit("jobgroups/domain/outputs.py", "node in executed and item", "item"),
    ),
    Breakage(
        "A file from ComfyUI's cache is not compared with the node that wrote it.",
        "A job shows the image of another seed that has the name of its own removed file.",
        f"{_OUTPUTS_REPLACED}::test_a_cached_node_does_not_show_the_file_that_another_node_wrote",
        Edit(_DRIVER, " or (node in own and writers.get(digest, own[node]) != own[node])", ""),
    ),
    Breakage(
        "The date of a file is not compared with the end of its job.",
        "A file of another client's prompt is shown for the job.",
        f"{_OUTPUTS_REPLACED}::test_a_file_written_after_the_end_of_its_job_is_not_its_own",
        Edit("jobgroups/outputs/download.py", "if _is_younger(file, answer):", "if False:"),
    ),
    Breakage(
        "A job is moved from any status.",
        "A cancelled job becomes completed when its render ends.",
        f"{_DB_ATTEMPT_SERVICES}::test_late_result_of_a_cancelled_job_is_stored_on_its_attempt_only",
        Edit(_GROUP_TRANSACTION, " child.pk, moved, status=sources_of(to)", " child.pk, moved"),
    ),
    Breakage(
        "The result of an abandoned attempt ends its job.",
        "A job shows one attempt's image while another attempt still runs.",
        f"{_DB_ATTEMPT_SERVICES}::test_abandoned_prompt_is_not_adopted_when_its_job_has_a_newer_attempt",
        Edit(_ATTEMPTS, "if child.current_attempt_id == attempt.pk:", "if child.pk:"),
        Edit(_GROUP_TRANSACTION, "current = {} if attempt is None else {", "current = {} if True else {"),
    ),
    Breakage(
        "A group's status is derived from rows that were read before its lock.",
        "Two jobs that end at once each find the other one open: no `group_complete`.",
        f"{_DB_ATTEMPT_SERVICES}::test_group_completes_once_when_its_last_jobs_end_together",
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
        f"{_DB_ATTEMPT_SERVICES}::test_stale_fencing_token_writes_nothing",
        Edit(_LEASES, "if epochs.get(fence.backend_id) != fence.epoch:", "if fence.backend_id not in epochs:"),
    ),
    Breakage(
        "A lease that is taken over keeps its epoch.",
        "The fencing token of the stale runner stays valid.",
        f"{_DB_ATTEMPT_SERVICES}::test_stale_fencing_token_writes_nothing",
        Edit(_LEASES, 'epoch=F("epoch") + 1', 'epoch=F("epoch")'),
        Edit(_LEASES, "lease.epoch + 1)", "lease.epoch)"),
    ),
    Breakage(
        "SQLite does not sync each commit.",
        "A power cut loses an intent whose prompt is running: the job is executed twice.",
        f"{_DB_TRANSACTIONS}::test_every_commit_but_progress_is_synced",
        Edit(_SETTINGS, "PRAGMA synchronous=FULL;", "PRAGMA synchronous=NORMAL;"),
    ),
    Breakage(
        "Subscribers are notified before the commit.",
        "Clients get events that are rolled back or cannot be read yet.",
        f"{_DB_EVENTS}::test_nothing_is_published_before_the_commit",
        Edit(_LOG, "transaction.on_commit(callback, robust=True)", "callback()"),
    ),
    Breakage(
        "An event is published and not stored.",
        "A client that was disconnected never gets it.",
        f"{_DB_EVENTS}::test_one_transaction_publishes_one_message_with_its_frames",
        Edit(_LOG, "    insert(rows)\n", ""),
    ),
    Breakage(
        "Events are numbered over the whole table and not within their group.",
        "Every client finds gaps without end and reads the events again and again.",
        f"{_DB_EVENTS}::test_events_of_each_group_are_numbered_without_a_gap",
        Edit(_LOG, "rows = [", "group.seq = JobEvent.objects.count()\n    rows = ["),
    ),
    Breakage(
        "`since` starts with the event that the client names.",
        "After each reconnect an event is applied twice.",
        f"{_WS_STREAM}::test_since_resumes_right_after_the_known_event",
        Edit("jobgroups/queries/groups.py", "return since, None", "return max(since - 1, 0), None"),
    ),
    Breakage(
        "A socket skips a missing event.",
        "An ended job looks as if it still ran.",
        f"{_WS_STREAM}::test_lost_events_are_read_from_the_database",
        Edit(_STREAM, "return seq > self.sent + 1", "return False"),
    ),
    Breakage(
        "The stored `seq` of a group is not compared with the published one.",
        "If the last notification is lost, a client waits for `group_complete` without end.",
        "tests/unit/test_hub.py::test_timer_sends_one_hint_if_the_log_is_ahead",
        Edit("jobgroups/events/hub.py", "if self._advance(seq):", "if False:"),
        within=10,
    ),
    Breakage(
        "Progress of a job that does not run is sent.",
        "A failed job is shown with 99 % again.",
        f"{_WS_STREAM}::test_no_progress_after_the_end_of_a_child",
        Edit(_STREAM, "fits = child.running and frame.attempt", "fits = frame.attempt"),
    ),
    Breakage(
        "A unit of work returns before the transaction that it shares is committed.",
        "A prompt is sent whose intent a power cut loses: it is executed a second time.",
        f"{_DB_TRANSACTIONS}::test_result_is_returned_after_the_commit",
        Edit(
            _THREADS,
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
        f"{_DB_TRANSACTIONS}::test_every_unit_gets_an_error_when_the_transaction_cannot_begin",
        Edit(_THREADS, "jobs = [first]", "jobs = []"),
        Edit(_THREADS, "outcomes = ", "jobs.append(first)\n                outcomes = "),
    ),
    Breakage(
        "Units of work that share a transaction fail together.",
        "One row that the database refuses keeps all other ends from being stored.",
        f"{_DB_TRANSACTIONS}::test_error_of_one_unit_does_not_affect_the_others",
        Edit(
            _THREADS,
            "for job in jobs:\n                job.run()",
            "for job in jobs:\n                job.set_result(None, _BatchAborted())",
        ),
    ),
    Breakage(
        "An idempotency key is kept for 14 minutes.",
        "A client that was offline for an hour repeats its request: all jobs are executed twice.",
        "tests/api/test_submission.py::test_key_is_remembered_for_a_day",
        Edit(_SUBMISSION, "dt.timedelta(hours=24)", "dt.timedelta(minutes=14)"),
    ),
    Breakage(
        "A group whose status is derived again completes again.",
        "Clients get a second `group_complete`, and users a second notification.",
        f"{_DB_GROUP_SERVICES}::test_group_does_not_complete_twice_when_its_status_is_derived_again",
        Edit(_GROUP_TRANSACTION, " counts.all_final and group.completed_at is None", " counts.all_final"),
    ),
    Breakage(
        "A transaction on SQLite acquires the write lock only with its first write.",
        "It fails if another process wrote since its first read: `database is locked`.",
        f"{_DB_TRANSACTIONS}::test_transaction_that_has_only_read_keeps_other_writers_out",
        Edit(_SETTINGS, '"transaction_mode": "IMMEDIATE"', '"transaction_mode": "DEFERRED"'),
    ),
)
