"""One of the machines fails: what the form offers, and what a page then says of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from director.demo.workflow import text_to_image
from tests.browser.contact_sheet import wrong_on
from tests.browser.desk import Desk
from tests.browser.test_soundness import serious

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


def bring_workflow(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/submit")
    page.get_by_text("Or paste it as JSON").click()
    page.locator("#paste").fill(json.dumps(text_to_image()))
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")


def submit(page: Any) -> str:
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/groups/jg_*")
    return str(page.url.rsplit("/", 1)[1])


def policy(desk: Desk, group: str) -> tuple[int, bool | str]:
    status = desk.status(group)
    return status["max_attempts"], status["retry_elsewhere"]


def test_the_form_asks_once_in_a_browser_what_is_done_when_a_picture_fails(desk: Desk, page: Any) -> None:
    bring_workflow(desk, page)
    fails, tries = page.get_by_label("When a job fails"), page.get_by_label("Attempts at most")
    # As the API does where nothing is said.
    expect(fails).to_have_value("no")
    expect(tries).to_be_hidden()
    assert policy(desk, submit(page)) == (1, False)
    bring_workflow(desk, page)
    fails.select_option("Retry on any backend")
    tries.fill("0")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator('[data-error="max_attempts"]')).to_have_text("Must be a whole number from 1 to 10.")
    tries.fill("4")
    group = submit(page)
    assert policy(desk, group) == (4, "any")
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text("up to 4 attempts, also on any other backend")
    page.goto(f"{desk.url}/submit")
    expect(fails).to_have_value("any")
    expect(tries).to_have_value("4")
    desk.clear()


def test_a_repeated_group_brings_its_own_and_not_what_the_browser_remembers(desk: Desk, page: Any) -> None:
    group = desk.submit(
        2,
        max_attempts=2,
        retry_elsewhere="group",
        retry_on=["out_of_memory"],
        partial_outputs="fail",
        timeout_seconds=120,
        metadata={"name": "Hero", "scene": "shot_010", "panel": 7},
        submitter="Ann",
    )
    page.goto(f"{desk.url}/submit")
    page.evaluate("localStorage.setItem('director.on-failure', 'any 7')")
    page.evaluate("localStorage.setItem('director.submitter', 'Ben')")
    page.goto(f"{desk.url}/submit?from={group}")
    expect(page.get_by_label("When a job fails")).to_have_value("group")
    expect(page.get_by_label("Attempts at most")).to_have_value("2")
    expect(page.get_by_label("Your name")).to_have_value("Ann")
    expect(page.locator("#retry-on-said")).to_have_text(": 1 chosen")
    expect(page.get_by_label("When ComfyUI refuses some outputs")).to_have_value("fail")
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    again = submit(page)
    carried = (
        "max_attempts",
        "retry_elsewhere",
        "retry_on",
        "partial_outputs",
        "timeout_seconds",
        "metadata",
        "submitter",
    )
    before, after = desk.status(group), desk.status(again)
    assert {name: after[name] for name in carried} == {name: before[name] for name in carried}
    # What the group brought along is not what this person says the next time.
    page.goto(f"{desk.url}/submit")
    expect(page.get_by_label("Your name")).to_have_value("Ben")
    expect(page.get_by_label("When a job fails")).to_have_value("any")
    expect(page.get_by_label("Attempts at most")).to_have_value("7")
    desk.clear()


def test_after_which_failures_it_is_tried_again_is_chosen_by_keyboard(desk: Desk, page: Any) -> None:
    bring_workflow(desk, page)
    box = page.locator("#retry-on-box")
    # Nothing to choose where it is not tried again.
    expect(box).to_be_hidden()
    page.get_by_label("When a job fails").select_option("Retry on any chosen backend")
    box.locator("summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("name", "retry_on")
    expect(focused).to_have_attribute("value", "node_or_model_missing")
    page.keyboard.press("Space")
    page.get_by_label("Out of memory").check()
    expect(page.locator("#retry-on-said")).to_have_text(": 2 chosen")
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert wrong_on(page) == []
        assert serious(page) == []
    group = submit(page)
    assert desk.status(group)["retry_on"] == ["node_or_model_missing", "out_of_memory"]
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text(
        "up to 3 attempts, also on the other backends of the group, only after: node or model missing, out of memory"
    )
    bring_workflow(desk, page)
    # A class that this Director does not know, as after an update under an open page.
    box.evaluate("box => { box.open = true; box.querySelector('input').value = 'fire'; }")
    box.locator("input").first.check()
    page.get_by_role("button", name="Submit", exact=True).click()
    error = page.locator('[data-error="retry_on"]')
    expect(error).to_contain_text("Is no failure class; use some of")
    expect(error).to_be_in_viewport()
    desk.clear()


def test_one_of_four_machines_is_on_fire_and_the_artist_sees_one_on_the_second_try(desk: Desk, page: Any) -> None:
    bring_workflow(desk, page)
    page.locator("#count").fill("4")
    page.get_by_label("When a job fails").select_option("Retry on any chosen backend")
    desk.order(2, name="out_of_memory")
    group = submit(page)
    expect(page.locator(".facts")).to_contain_text("3 completed, 1 completed on the second attempt")
    expect(page.locator(".facts")).not_to_contain_text("failed")
    expect(page.locator(".tries summary")).to_have_text("Completed on the second attempt")
    expect(page).to_have_title(f"4/4 · {group}")
    page.goto(desk.url)
    expect(page.locator(f"#{group}")).to_contain_text("3 completed, 1 completed on the second attempt")
    # What was given back failed nobody, and is no second try.
    given_back = desk.submit(1, timeout_seconds=600)
    home = desk.backend_ids()[0]
    desk.until(given_back, lambda status: status["child_jobs"][0]["status"] == "running")
    desk.http.post(f"{desk.url}/api/backends/{home}/pause", json={"now": True})
    desk.until(given_back, lambda status: status["child_jobs"][0]["status"] == "queued")
    desk.http.post(f"{desk.url}/api/backends/{home}/resume")
    assert desk.until_ended(given_back)["child_jobs"][0]["attempts"] == 2
    expect(page.locator(f"#{given_back}")).to_contain_text("1/1 completed")
    desk.clear()


def test_a_job_whose_machine_went_silent_says_so(desk: Desk, page: Any) -> None:
    desk.order(1, name="slow", seconds=20)
    group = desk.submit(2)
    desk.until(group, lambda status: status["child_jobs"][1]["status"] == "running")
    page.goto(f"{desk.url}/groups/{group}")
    note = page.locator(".card.s-running .note")
    expect(note).to_have_count(0)
    desk.order(1, name="refuse_connections", at="now", seconds=5)
    desk.order(1, name="drop_sockets", at="now")
    expect(note).to_contain_text("has not been reachable since")
    # It comes back by itself.
    expect(note).to_have_count(0)
    desk.clear()
