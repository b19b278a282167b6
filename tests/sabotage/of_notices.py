"""Breakages of notifications and of the page of failures."""

from tests.sabotage.breakage import Breakage, Edit

_FAILURES = "jobgroups/queries/failures.py"
_NOTIFIER = "jobgroups/runner/notices/notifier.py"

OF_NOTICES: tuple[Breakage, ...] = (
    Breakage(
        "The end of a group's run stores no notice.",
        "Users are not notified when their jobs are done.",
        "db/test_notices.py::test_end_of_a_group_is_notified_once_with_its_link",
        Edit("jobgroups/services/transactions.py", "notices.enqueue_group_ended(group, children)", "pass"),
    ),
    Breakage(
        "A runner claims notices while another runner sends some.",
        "Several notices come as several messages, one from each runner.",
        "db/test_notices.py::test_notice_is_delivered_by_one_runner",
        Edit("jobgroups/services/outbox.py", " or any(_is_under_way(notice, moment) for notice in waiting)", ""),
    ),
    Breakage(
        "A delivered notice is sent again when another service fails.",
        "While the mail server is down, the same message appears in the chat again and again.",
        "runner/test_notifying.py::test_one_service_that_fails_keeps_no_other_from_being_told_and_none_is_told_twice",
        Edit(_NOTIFIER, "if notice.id not in taken]", "]"),
    ),
    Breakage(
        "The services that have a notice are forgotten when the runner ends.",
        "After each restart the chat gets the notices again that the mail server refused.",
        "runner/test_notifying.py::test_what_a_service_took_it_is_not_told_again_by_the_next_runner",
        Edit(_NOTIFIER, "{notice.id for notice in due if service.mark in notice.delivered_to}", "set()"),
    ),
    Breakage(
        "The error text of apprise is stored unchanged.",
        "The token of a chat appears in the log and in the admin.",
        "unit/test_posting.py::test_a_reason_has_no_part_of_the_url",
        Edit(
            "jobgroups/runner/notices/channels.py",
            "text = re.sub(re.escape(part), _HIDDEN, text, flags=re.IGNORECASE)",
            "pass",
        ),
    ),
    Breakage(
        "The page of failures counts only jobs with an attempt.",
        "Failed jobs of a backend that was off all night are missing.",
        "api/test_failures.py::test_job_that_was_never_sent_is_counted",
        Edit(_FAILURES, "[_lost_children(since)", "[_lost_children(since).exclude(current_attempt=None)"),
    ),
    Breakage(
        "The number in the navigation leaves out jobs whose attempt is still open.",
        "The badge shows 4 failed jobs where the API has 6.",
        "api/test_failures.py::test_api_page_navigation_and_cli_count_the_same",
        Edit(
            _FAILURES,
            "return _lost(now() - WINDOWS[window])",
            "return _lost(now() - WINDOWS[window]).filter(current_attempt__ended_at__gt=now() - WINDOWS[window])",
        ),
    ),
)
