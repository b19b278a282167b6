"""Pausing, draining, setting aside and releasing a machine by hand, told first what it will hit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.desk import Desk

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


@pytest.fixture(autouse=True)
def left_as_found(desk: Desk) -> Any:
    """Give every backend back as it was, whatever became of the test."""
    yield
    for backend_id in desk.backend_ids():
        path = f"{desk.url}/api/backends/{backend_id}"
        desk.http.patch(path, json={"enabled": True})
        desk.http.post(f"{path}/resume")
        desk.http.post(f"{path}/release")
    desk.clear()


def lane_of(desk: Desk, page: Any, index: int = 0) -> Any:
    page.goto(f"{desk.url}/backends")
    return page.locator(f'[id="b-{desk.backend_ids()[index]}"]')


def backend(desk: Desk, index: int = 0) -> dict[str, Any]:
    path = f"{desk.url}/api/backends/{desk.backend_ids()[index]}"
    found: dict[str, Any] = desk.http.get(path).json()
    return found


def one_runs_and_one_waits(desk: Desk, page: Any) -> tuple[str, Any]:
    """Have one picture rendered at the first backend, one stand in its queue, and one wait for it."""
    desk.slow()
    group = desk.submit(9, metadata={"name": "Held back"})
    first = desk.backend_ids()[0]

    def there(status: dict[str, Any]) -> bool:
        mine = [one["status"] for one in status["child_jobs"] if one["backend_id"] == first]
        return sorted(mine) == ["queued", "queued", "running"]

    desk.until(group, there)
    lane = lane_of(desk, page)
    expect(lane).to_contain_text("1 more queued")
    return group, lane


def test_a_pause_says_first_what_it_will_hit_and_then_who_paused_it(desk: Desk, page: Any) -> None:
    _, lane = one_runs_and_one_waits(desk, page)
    lane.get_by_role("button", name="Pause …").click()
    told = page.locator("#hold-text")
    expect(told).to_contain_text("1 job running and 1 job pending: finished first.")
    expect(told).to_contain_text("1 queued job waits until you resume it.")
    page.get_by_label("Now: stop its jobs and queue them again").check()
    expect(told).to_contain_text("stopped and queued again")
    page.get_by_label("After its current jobs").check()
    page.get_by_label("Reason (optional)").fill("the fan is <i>loud</i>")
    page.get_by_label("Your name (optional)").fill("Anna")
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(lane).to_contain_text("Paused by Anna")
    expect(lane).to_contain_text("the fan is <i>loud</i>")
    assert backend(desk)["evict"] is False
    lane.get_by_role("button", name="Resume").click()
    expect(lane).to_contain_text("Busy")
    assert backend(desk)["changed_by"] == "Anna", "the name is remembered"


def test_paused_now_what_runs_is_given_back_and_the_card_says_why_it_waits(desk: Desk, page: Any) -> None:
    group, lane = one_runs_and_one_waits(desk, page)
    lane.get_by_role("button", name="Pause …").click()
    page.get_by_label("Now: stop its jobs and queue them again").check()
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(lane).to_contain_text("Its jobs were stopped and queued again.")
    expect(lane).to_contain_text("3 queued", timeout=20_000)
    expect(lane.locator("a.work")).to_have_count(0)
    page.goto(f"{desk.url}/groups/{group}")
    hint = page.locator(".card.s-queued .hint", has_text="is paused")
    expect(hint.first).to_be_visible()


def test_leaving_the_dialog_changes_nothing(desk: Desk, page: Any) -> None:
    lane = lane_of(desk, page)
    for leave in ("Escape", "Cancel"):
        lane.get_by_role("button", name="Pause …").click()
        page.get_by_label("Reason (optional)").fill("no")
        if leave == "Escape":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("dialog").get_by_role("button", name=leave).click()
        expect(page.locator("#hold")).to_be_hidden()
    # Busy where it was not looked at since the test before.
    assert backend(desk)["status"] in ("online", "busy")


def test_a_drained_machine_ends_as_disabled(desk: Desk, page: Any) -> None:
    lane = lane_of(desk, page, 1)
    lane.get_by_text("More").click()
    lane.get_by_role("button", name="Drain …").click()
    expect(page.locator("#hold-text")).to_contain_text("disabled when it is empty")
    page.get_by_label("Reason (optional)").fill("new card")
    page.get_by_role("dialog").get_by_role("button", name="Drain", exact=True).click()
    expect(lane).to_contain_text("Disabled", timeout=20_000)
    expect(lane).to_contain_text("drained: new card")
    lane.get_by_role("button", name="Enable").click()
    expect(lane).to_contain_text("Online")


def test_a_machine_is_set_aside_and_released(desk: Desk, page: Any) -> None:
    lane = lane_of(desk, page, 2)
    lane.get_by_text("More").click()
    lane.get_by_role("button", name="Quarantine …").click()
    page.get_by_label("Minutes").fill("30")
    page.get_by_label("Reason (optional)").fill("it smokes")
    page.get_by_role("dialog").get_by_role("button", name="Quarantine", exact=True).click()
    expect(lane).to_contain_text("Quarantined by")
    expect(lane).to_contain_text("it smokes")
    expect(lane).to_contain_text("Probed again in")
    # Trouble comes first.
    expect(page.locator(".lane").first).to_contain_text("Quarantined by")
    lane.get_by_role("button", name="Release …").click()
    page.get_by_role("dialog").get_by_role("button", name="Release", exact=True).click()
    expect(lane).to_contain_text("On probation")
    assert backend(desk, 2)["on_probation"] is True


def test_it_works_by_keyboard_on_a_narrow_page(desk: Desk, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    lane = lane_of(desk, page, 3)
    lane.get_by_role("button", name="Pause …").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#hold")).to_be_visible()
    page.get_by_label("Your name (optional)").press("Enter")
    # Enter says yes: it is what the form is for, and what can be taken back.
    expect(lane).to_contain_text("Paused")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
