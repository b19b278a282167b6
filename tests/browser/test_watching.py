"""Three children to their pictures; what fails, what is cancelled, what is closed and comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from director.demo.workflow import text_to_image
from tests.browser.desk import Desk

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


@pytest.fixture(autouse=True)
def nothing_is_left(desk: Desk) -> Iterator[None]:
    yield
    desk.clear()


def cards(page: Any, status: str) -> Any:
    return page.locator(f".card.s-{status}")


def test_a_submitted_workflow_is_watched_to_its_pictures(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/submit")
    page.get_by_text("Or paste it as JSON").click()
    page.locator("#paste").fill(json.dumps(text_to_image()))
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    page.locator("#count").fill("3")
    page.get_by_label("Name", exact=True).fill("Watched")
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/groups/jg_*")
    expect(page.get_by_role("heading", level=1)).to_have_text("Watched")
    preview = page.locator(".preview:visible").first
    preview.wait_for()
    assert preview.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(cards(page, "completed")).to_have_count(3)
    for index in range(3):
        picture = page.locator(".picture img").nth(index)
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
    assert page.title().startswith("3/3 · Watched")
    assert "favicon-completed" in str(page.locator("#favicon").get_attribute("href"))


def test_progress_moves_on_the_page_without_asking_again(desk: Desk, page: Any) -> None:
    desk.slow(6)
    page.goto(f"{desk.url}/groups/{desk.submit(1)}")
    has_come_to = "least => document.querySelector('progress.thin')?.value > least"
    page.wait_for_function(has_come_to, arg=10)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_function(has_come_to, arg=40)
    # A backend that changed meanwhile is a reason to ask once; progress comes four times a second.
    assert len([url for url in asked if "/parts/cards" in url]) <= 1


def test_a_card_moves_while_its_group_goes_on(desk: Desk, page: Any) -> None:
    desk.order(1, name="slow", seconds=30)
    group = desk.submit(2)
    page.goto(f"{desk.url}/groups/{group}")
    expect(cards(page, "running")).to_have_count(2)
    expect(cards(page, "completed")).to_have_count(1)
    expect(cards(page, "running")).to_have_count(1)
    assert desk.status(group)["completed_at"] is None


def test_a_failure_is_said_in_words_and_its_traceback_is_folded(desk: Desk, page: Any) -> None:
    desk.order(0, name="node_error", message="CUDA out of memory <img src=x onerror=alert(1)>")
    group = desk.submit(1)
    page.goto(f"{desk.url}/groups/{group}")
    failed = cards(page, "failed")
    expect(failed).to_have_count(1)
    expect(failed.locator(".error-words")).to_contain_text("memory <img src=x onerror=alert(1)>")
    expect(failed.locator("pre")).to_be_hidden()
    failed.get_by_text("ComfyUIError in KSampler").click()
    expect(failed.locator("pre")).to_contain_text("execution.py")
    assert failed.locator(".error-words img").count() == 0


def test_a_new_group_comes_into_the_list_and_moves_there(desk: Desk, page: Any) -> None:
    page.goto(desk.url)
    expect(page.locator("#line-live")).to_have_text("live")
    group = desk.submit(2, metadata={"name": "Came in"})
    row = page.locator(f"#{group}")
    expect(row).to_contain_text("Came in")
    expect(row).to_contain_text("2/2 completed")
    expect(row.locator(".thumb")).to_have_count(2)


def test_a_reload_midway_and_a_second_tab_show_the_same_end(desk: Desk, context: Any) -> None:
    group = desk.submit(4)
    first, second = context.new_page(), context.new_page()
    first.goto(f"{desk.url}/groups/{group}")
    second.goto(f"{desk.url}/groups/{group}")
    first.locator(".card.s-running").first.wait_for()
    first.reload()
    for page in (first, second):
        expect(cards(page, "completed")).to_have_count(4)
        expect(page.locator(".facts")).to_contain_text("4/4 completed")


def test_the_page_says_that_the_director_is_away_and_comes_back_by_itself(desk: Desk, page: Any) -> None:
    group = desk.submit(4)
    page.goto(f"{desk.url}/groups/{group}")
    cards(page, "running").first.wait_for()
    desk.kill()
    expect(page.locator("#away")).to_contain_text("The Director does not answer", timeout=2_500)
    desk.start_again()
    expect(page.locator("#away")).to_be_hidden(timeout=30_000)
    desk.until_ended(group)
    expect(cards(page, "completed")).to_have_count(4)
    expect(page.locator("#line-runner")).to_have_text("runner ok")


def test_why_a_queued_child_waits_stands_on_its_card(desk: Desk, page: Any) -> None:
    desk.slow()
    desk.submit(8)
    group = desk.submit(4)
    page.goto(f"{desk.url}/groups/{group}")
    expect(cards(page, "queued").first.locator(".hint")).to_contain_text("in line for")


def test_a_link_to_one_child_brings_it_into_view(desk: Desk, page: Any) -> None:
    group = desk.submit(12)
    last = desk.status(group)["child_jobs"][-1]["job_id"]
    page.goto(f"{desk.url}/groups/{group}#{last}")
    expect(page.locator(f"#{last}")).to_be_in_viewport()
    expect(page.locator(f"#{last}")).to_be_focused()


def test_times_of_day_are_those_of_the_person_who_looks(desk: Desk, browser: Any) -> None:
    context = browser.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    first = desk.backend_ids()[0]
    try:
        desk.http.post(f"{desk.url}/api/backends/{first}/pause", json={})
        group = desk.submit(1)
        reason = desk.status(group)["child_jobs"][0]["waiting_reason"]
        hour, rest = re.findall(r"(\d\d):(\d\d:\d\d) UTC", reason)[0]
        since = f"{(int(hour) + 9) % 24:02}:{rest}"
        page.goto(f"{desk.url}/groups/{group}")
        hint = page.locator(".card .hint")
        expect(hint).to_contain_text(f"{first} is paused since {since}. ")
        # Also where the card was asked for anew.
        desk.http.post(f"{desk.url}/api/backends/{first}/drain", json={})
        expect(hint).to_contain_text("is being drained since")
        expect(hint).not_to_contain_text("UTC")
    finally:
        context.close()
        desk.http.post(f"{desk.url}/api/backends/{first}/resume", json={})
        desk.clear()
