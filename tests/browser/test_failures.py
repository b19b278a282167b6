"""The page of failures: empty, with a bad day, and what can be done about it."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.desk import Desk, desk_of

MARKUP = "<img src=x onerror=\"document.title='taken'\">"


def fail(desk: Desk, index: int, message: str, **fields: Any) -> str:
    desk.order(index, name="node_error", message=message)
    fields = {"backend_ids": [desk.backend_ids()[index]], **fields}
    group = desk.submit(1, **fields)
    assert desk.until_ended(group)["failed_count"] == 1
    return group


desk = desk_of()


@pytest.fixture(scope="module")
def bad_day(desk: Desk) -> list[str]:
    """Two jobs that failed for one cause at one backend, and one that failed at another."""
    names = ("shot_001", "shot_002")
    groups = [fail(desk, 0, f"boom {MARKUP}", metadata={"name": name}) for name in names]
    return [*groups, fail(desk, 1, "elsewhere", metadata={"name": "shot_003"})]


def test_failures_stand_by_cause_and_backend_the_worst_first(
    desk: Desk, page: Any, bad_day: list[str]
) -> None:
    page.goto(f"{desk.url}/failures")
    expect(page.get_by_role("link", name="Failures 3 in the last day")).to_be_visible()
    causes = page.locator(".cause")
    expect(causes).to_have_count(2)
    first = causes.first
    expect(first.get_by_role("heading")).to_have_text("Node error")
    expect(first).to_contain_text("2 failures")
    expect(first).to_contain_text("2 jobs failed")
    expect(first.locator(".said")).to_contain_text(MARKUP)
    assert page.locator('img[src="x"]').count() == 0
    first.get_by_role("link", name="Show a job").click()
    expect(page.locator(".card:target .error-words").first).to_contain_text("boom")


def test_a_retry_says_first_what_it_does_and_can_be_done_with_keys_alone(
    desk: Desk, page: Any, bad_day: list[str]
) -> None:
    page.goto(f"{desk.url}/failures")
    page.get_by_role("button", name="Retry 2 jobs").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("2 jobs in 2 groups")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Retry 2 jobs")).to_be_focused()
    assert desk.status(bad_day[0])["run"] == 1
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_contain_text("2 jobs are retried.")
    for group in bad_day[:2]:
        assert desk.until_ended(group)["status"] == "completed"
    page.reload()
    expect(page.get_by_role("heading", name="Completed by a later attempt")).to_be_visible()
    expect(page.locator(".cause.s-completed")).to_contain_text("2 failures")
    expect(page.locator(".cause.s-failed")).to_have_count(1)


def test_a_backend_can_be_set_aside_where_it_fails(
    desk: Desk, page: Any, bad_day: list[str]
) -> None:
    page.goto(f"{desk.url}/failures")
    page.evaluate("localStorage.setItem('director.submitter', 'olga')")
    row = page.locator(".cause.s-failed", has_text="elsewhere")
    row.get_by_role("button", name="Quarantine").click()
    page.get_by_role("dialog").get_by_role("button", name="Quarantine", exact=True).click()
    expect(row).to_contain_text("is quarantined")
    backend = desk.backend_ids()[1]
    found = desk.http.get(f"{desk.url}/api/backends/{backend}").json()
    assert found["status"] == "quarantined"
    assert "Node error: 1 failure in the last day" in found["status_reason"]
    assert found["status_by"] == "olga"
    # What goes nowhere else now is offered to the others.
    row.get_by_role("button", name="Retry 1 job").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("takes no jobs now, so these jobs move to other backends")
    dialog.get_by_role("button", name="Retry 1 job").click()
    expect(page.locator("#toast")).to_contain_text("1 job is retried.")
    ended = desk.until_ended(bad_day[2])
    assert ended["status"] == "completed"
    assert ended["child_jobs"][0]["backend_id"] != backend


def retry(desk: Desk, group: str) -> None:
    desk.http.post(f"{desk.url}/api/job-groups/{group}/retry", json={})
    assert desk.until_ended(group)["status"] == "completed"


def test_the_number_in_the_navigation_follows_without_a_reload(
    desk: Desk, page: Any, bad_day: list[str]
) -> None:
    for group in bad_day:
        if desk.status(group)["status"] != "completed":
            retry(desk, group)
    page.goto(f"{desk.url}/submit")
    expect(page.locator("#line-live")).to_have_text("live")
    expect(page.locator(".tally")).to_be_hidden()
    group = fail(desk, 2, "later")
    expect(page.get_by_role("link", name="Failures 1 in the last day")).to_be_visible()
    retry(desk, group)
    expect(page.locator(".tally")).to_be_hidden()
