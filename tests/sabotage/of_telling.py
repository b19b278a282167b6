"""Breakages of what people are told: nothing, something twice, a password, a failure less."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_NOTICES = "tests/db/test_notices.py"
_NOTIFYING = "tests/runner/test_notifying.py"
_FAILURES = "tests/api/test_failures.py"

OF_TELLING: tuple[Breakage, ...] = (
    Breakage(
        name="end told to nobody",
        broken="The end of a group's run stores no notice.",
        hurts="Who wanted to be woken when the night's work is done sleeps on.",
        edits=(Edit("jobgroups/services/transactions.py", "notices.enqueue_group_ended(group, children)", "pass"),),
        notices=f"{_NOTICES}::test_the_end_of_a_group_is_told_once_with_its_link",
    ),
    Breakage(
        name="told by every runner",
        broken="A runner takes up notices while another one tells some.",
        hurts="A burst comes as several messages, one from each runner.",
        edits=(Edit("jobgroups/services/outbox.py", " or any(_is_under_way(one, moment) for one in waiting)", ""),),
        notices=f"{_NOTICES}::test_what_one_runner_tells_no_other_does",
    ),
    Breakage(
        name="told again where it was taken",
        broken="A service that took a notice gets it again with each try of another one.",
        hurts="While the mail server is down, the same group ends in the chat all night.",
        edits=(Edit("jobgroups/runner/notices/notifier.py", "if one.id not in taken]", "]"),),
        notices=f"{_NOTIFYING}::test_one_service_that_fails_keeps_no_other_from_being_told_and_none_is_told_twice",
    ),
    Breakage(
        name="told again by the next runner",
        broken="What a service took is forgotten when its runner ends.",
        hurts="With each start of the Director the chat tells again of what the mail server cannot take.",
        edits=(
            Edit(
                "jobgroups/runner/notices/notifier.py",
                "{one.id for one in due if service.mark in one.delivered_to}",
                "set()",
            ),
        ),
        notices=f"{_NOTIFYING}::test_what_a_service_took_it_is_not_told_again_by_the_next_runner",
    ),
    Breakage(
        name="password in a reason",
        broken="What apprise says of a failure is stored as it is.",
        hurts="A token of a chat stands in the log and in the admin.",
        edits=(
            Edit(
                "jobgroups/runner/notices/channels.py",
                "text = re.sub(re.escape(part), _HIDDEN, text, flags=re.IGNORECASE)",
                "pass",
            ),
        ),
        notices="tests/unit/test_posting.py::test_a_reason_has_no_part_of_the_url",
    ),
    Breakage(
        name="unsent failures left out",
        broken="The page of failures counts attempts alone.",
        hurts="Jobs whose machine was off all night have failed, and the page says nothing did.",
        edits=(
            Edit(
                "jobgroups/queries/failures.py",
                "[_lost_children(since), ",
                "[_lost_children(since).exclude(current_attempt=None), ",
            ),
        ),
        notices=f"{_FAILURES}::test_job_that_was_never_sent_is_counted",
    ),
    Breakage(
        name="failures with a pending stop left out",
        broken="The number in the navigation leaves out jobs whose attempt is still open.",
        hurts="The badge shows 4 failed jobs where the API has 6.",
        edits=(
            Edit(
                "jobgroups/queries/failures.py",
                "return _lost(now() - WINDOWS[window])[",
                "return _lost(now() - WINDOWS[window]).filter(current_attempt__ended_at__gt=now() - WINDOWS[window])[",
            ),
        ),
        notices=f"{_FAILURES}::test_api_page_navigation_and_cli_count_the_same",
    ),
)
