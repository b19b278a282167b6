"""Retrying on the page: one job, all that failed, several groups; and what is said of each attempt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.desk import Desk

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


@pytest.fixture(autouse=True)
def nothing_is_left(desk: Desk) -> Iterator[None]:
    yield
    for backend_id in desk.backend_ids():
        desk.http.patch(f"{desk.url}/api/backends/{backend_id}", json={"enabled": True})
    desk.clear()


def cards(page: Any, status: str) -> Any:
    return page.locator(f".card.s-{status}")


def failed_group(desk: Desk, *failing: int, count: int = 3) -> str:
    """Submit a group in which the jobs at these simulators fail, and wait for its end."""
    for index in failing:
        desk.order(index, name="node_error", message="CUDA out of memory", count=1)
    group = desk.submit(count, metadata={"name": "Retried"})
    status = desk.until_ended(group)
    assert status["failed_count"] == len(failing), status
    return group


def test_all_that_failed_is_rendered_again_on_the_page_that_was_open(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, 1)
    page.goto(f"{desk.url}/groups/{group}")
    expect(cards(page, "failed")).to_have_count(2)
    page.get_by_role("button", name="Retry 2 failed …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Retry 2 jobs?")
    expect(dialog).to_contain_text("The completed job stays")
    dialog.get_by_role("button", name="Retry 2 jobs").click()
    expect(page.locator("#toast")).to_contain_text("2 jobs are queued again")
    # The next run lives on the same socket: cards, previews, the head and the title.
    expect(cards(page, "completed")).to_have_count(3)
    expect(page.locator("#head")).to_contain_text("1 completed, 2 completed on the second attempt")
    expect(page.locator("#head")).to_contain_text("run 2")
    expect(page.locator("#head")).not_to_contain_text("failed")
    expect(page.get_by_role("button", name=re.compile("^Retry"))).to_have_count(0)
    assert page.title().startswith("3/3 · Retried")
    status = desk.status(group)
    assert (status["status"], status["run"]) == ("completed", 2)


def test_one_job_is_retried_and_the_others_wait_for_nobody(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, 1)
    page.goto(f"{desk.url}/groups/{group}")
    first = cards(page, "failed").first
    job = first.get_attribute("id")
    desk.slow(4)
    first.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator(f"#{job}.s-running")).to_have_count(1)
    # The other one that failed can be retried while this one runs; all that failed, when it has ended.
    expect(page.get_by_role("button", name="Retry", exact=True)).to_have_count(1)
    expect(page.get_by_role("button", name=re.compile("^Retry .* failed"))).to_have_count(0)
    expect(page.locator("#head")).to_contain_text("Running, some failed")
    expect(page.locator(f"#{job}.s-completed")).to_have_count(1)
    expect(page.get_by_role("button", name="Retry", exact=True)).to_have_count(1)
    assert desk.status(group)["status"] == "partial_complete"


def test_a_card_says_of_each_attempt_where_it_was_and_why_it_ended(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, count=1)
    page.goto(f"{desk.url}/groups/{group}")
    card = page.locator(".card")
    card.get_by_text("1 attempt").click()
    tried = card.locator(".tries li")
    expect(tried).to_contain_text("raised an error: CUDA out of memory")
    expect(tried.locator(".meaning")).to_contain_text("ran out of memory")
    card.get_by_role("button", name="Retry", exact=True).click()
    expect(card.get_by_text("Completed on the second attempt")).to_be_visible()
    # What a person has unfolded stays so over the runs.
    expect(tried).to_have_count(2)
    expect(tried.nth(0)).to_be_visible()
    expect(tried.nth(0)).to_contain_text("run 1, on")
    expect(tried.nth(1)).to_contain_text("run 2, on")
    expect(tried.nth(1)).to_contain_text("succeeded")
    expect(card.locator(".picture img")).to_have_count(1)


def test_where_its_backend_takes_nothing_others_are_offered(desk: Desk, page: Any) -> None:
    # No failure after which it goes elsewhere anyway.
    desk.order(0, name="node_error", message="bad value", count=1)
    group = desk.submit(1)
    desk.until_ended(group)
    home = desk.backend_ids()[0]
    desk.http.patch(f"{desk.url}/api/backends/{home}", json={"enabled": False})
    page.goto(f"{desk.url}/groups/{group}")
    retry = page.locator(".card").get_by_role("button", name="Retry", exact=True)
    retry.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Run them on other backends?")
    expect(dialog).to_contain_text(f"{home}: It is disabled")
    dialog.get_by_role("button", name="Cancel").click()
    assert desk.status(group)["run"] == 1
    retry.click()
    dialog.get_by_role("button", name="Use other backends").click()
    expect(page.locator("#toast")).to_contain_text("1 on another backend")
    expect(cards(page, "completed")).to_have_count(1)
    (child,) = desk.status(group)["child_jobs"]
    assert child["backend_id"] != home
    expect(page.locator(".machine")).not_to_have_attribute("title", home)


def test_a_person_says_where_a_failed_job_is_rendered_while_its_group_runs(desk: Desk, page: Any) -> None:
    first, second, third = desk.backend_ids()[:3]
    desk.http.post(f"{desk.url}/api/backends/{third}/pause", json={})
    desk.order(0, name="node_error", message="CUDA out of memory", count=1)
    group = desk.submit(3)
    page.goto(f"{desk.url}/groups/{group}")
    card = cards(page, "failed")
    job = card.get_attribute("id")
    card.get_by_role("button", name="Retry on …").click()
    dialog = page.get_by_role("dialog")
    where = dialog.get_by_label("Backend")
    # Another backend is preselected after out of memory.
    expect(where).to_have_value("where:other")
    where.select_option(f"backend:{second}")
    dialog.get_by_role("button", name="Retry the job").click()
    expect(page.locator("#toast")).to_contain_text("1 job is queued again, 1 on another backend")
    expect(page.locator(f"#{job}.s-completed")).to_have_count(1)
    # What waits for the paused backend is moved.
    waiting = cards(page, "queued")
    moved = waiting.get_attribute("id")
    waiting.get_by_role("button", name="Move …").click()
    expect(where.locator("option")).not_to_have_text(["Another backend that works"])
    where.select_option(f"backend:{first}")
    dialog.get_by_role("button", name="Move the job").click()
    expect(page.locator("#toast")).to_contain_text(f"is queued for {first} now")
    expect(page.locator(f"#{moved}.s-completed")).to_have_count(1)
    status = desk.until_ended(group)
    assert (status["status"], status["run"]) == ("completed", 1)
    places = {one["job_id"]: one["backend_id"] for one in status["child_jobs"]}
    assert (places[job], places[moved]) == (second, first)
    desk.http.post(f"{desk.url}/api/backends/{third}/resume", json={})


def test_a_page_that_is_behind_shows_what_somebody_else_did(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, count=1)
    desk.order(0, name="node_error", message="CUDA out of memory", count=1)
    desk.http.post(f"{desk.url}/api/job-groups/{group}/retry")
    assert desk.until_ended(group)["run"] == 2
    page.goto(f"{desk.url}/groups/{group}")
    page.evaluate("document.querySelector('[data-act=retry-job]').dataset.run = '1'")
    page.locator(".card").get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("retried meanwhile")
    assert desk.status(group)["run"] == 2
    # Asked for again meanwhile, it says the run as it is.
    page.locator('[data-act="retry-job"][data-run="2"]').click()
    expect(cards(page, "completed")).to_have_count(1)


def test_a_cancelled_group_goes_on(desk: Desk, page: Any) -> None:
    desk.slow(20)
    group = desk.submit(2)
    desk.until(group, lambda status: status["child_jobs"][0]["status"] == "running")
    desk.http.delete(f"{desk.url}/api/job-groups/{group}")
    desk.withdraw()
    page.goto(f"{desk.url}/groups/{group}")
    page.get_by_role("button", name="Retry 2 unfinished …").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 2 jobs").click()
    expect(cards(page, "completed")).to_have_count(2)
    expect(page.locator("#head")).not_to_contain_text("cancelled")


def test_several_groups_are_retried_from_the_list(desk: Desk, page: Any) -> None:
    failed = [failed_group(desk, 0, count=1) for _ in range(2)]
    done = desk.submit(1)
    desk.until_ended(done)
    page.goto(f"{desk.url}/")
    for group in [*failed, done]:
        page.locator(f"#{group} input[name=pick]").check()
    page.get_by_role("button", name="Retry failed jobs …").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 2 jobs").click()
    for group in failed:
        expect(page.locator(f"#{group}.s-completed")).to_have_count(1)
        assert desk.status(group)["run"] == 2
    assert desk.status(done)["run"] == 1


def test_retrying_and_a_new_group_are_told_apart(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0)
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(f"{desk.url}/groups/{group}")
    card = cards(page, "failed")
    retry = card.get_by_role("button", name="Retry", exact=True)
    assert "in its group" in str(retry.get_attribute("title"))
    new = card.get_by_role("link", name="New group, this seed")
    assert "new group" in str(new.get_attribute("title"))
    expect(page.get_by_role("link", name="New group with changes")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # What is done can only be repeated as a new group.
    expect(cards(page, "completed").get_by_role("button", name="Retry")).to_have_count(0)
