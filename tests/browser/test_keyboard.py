"""Without a mouse: submit, look at pictures, cancel one, a group and several groups."""

import json
from typing import Any

import pytest

from director.demo.workflow import text_to_image
from tests.browser.desk import Desk

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect

#: Whether what has the focus shows it.
_SHOWN = "one => getComputedStyle(one).outlineStyle !== 'none' && one.matches(':focus-visible')"


def tab_to(page: Any, target: Any, *, most: int = 80) -> None:
    """Press Tab until the target has the focus; it must show that it has."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if target.evaluate("one => one === document.activeElement"):
            assert target.evaluate(_SHOWN), "what has the focus does not show it"
            return
    raise AssertionError(f"Tab never leads to {target}")


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def test_a_group_is_submitted(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/submit")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, page.locator("#paste-box summary"))
    page.keyboard.press("Enter")
    tab_to(page, page.locator("#paste"))
    page.keyboard.insert_text(json.dumps(text_to_image()))
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    tab_to(page, button(page, "1 job"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("steps · KSampler"))
    page.keyboard.press("Control+A")
    page.keyboard.type("7")
    tab_to(page, page.locator("#name"))
    page.keyboard.type("By keyboard")
    tab_to(page, page.locator("#timeout"))
    page.keyboard.press("Control+A")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    expect(page.locator('[data-error="timeout_seconds"]')).to_contain_text("30 to 3600")
    page.keyboard.press("Control+A")
    page.keyboard.type("60")
    tab_to(page, button(page, "Submit"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/groups/jg_*")
    expect(page.get_by_role("heading", level=1)).to_have_text("By keyboard")


def test_a_group_is_cancelled_and_the_first_answer_is_no(desk: Desk, page: Any) -> None:
    desk.slow()
    group = desk.submit(2)
    page.goto(f"{desk.url}/groups/{group}")
    cancel = button(page, "Cancel group …")
    tab_to(page, cancel)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("2 jobs will not be finished")
    expect(button(page, "Keep it")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert desk.status(group)["cancelled_count"] == 0
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, button(page, "Cancel the group"), most=3)
    page.keyboard.press("Enter")
    expect(page.locator(".card.s-cancelled")).to_have_count(2)


def test_one_job_is_cancelled_and_the_focus_stays_while_cards_move(desk: Desk, page: Any) -> None:
    desk.slow()
    group = desk.submit(2)
    page.goto(f"{desk.url}/groups/{group}")
    expect(page.locator(".card.s-running")).to_have_count(2)
    tab_to(page, button(page, "Cancel").first)
    page.keyboard.press("Space")
    expect(page.locator(".card.s-cancelled")).to_have_count(1)
    expect(page.locator(".card.s-running")).to_have_count(1)


def test_several_groups_are_chosen_and_cancelled(desk: Desk, page: Any) -> None:
    desk.slow()
    groups = [desk.submit(1, metadata={"name": f"Of two {n}"}) for n in range(2)]
    page.goto(f"{desk.url}/?text=Of+two&hide=finished")
    for group in reversed(groups):
        tab_to(page, page.locator(f"#{group} input[name=pick]"))
        page.keyboard.press("Space")
    expect(page.locator("#selection-count")).to_have_text("2 selected")
    for _ in range(20):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.id") == "selection-cancel":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Cancel 2 groups?")
    tab_to(page, button(page, "Cancel groups"), most=3)
    page.keyboard.press("Enter")
    for group in groups:
        expect(page.locator(f"#{group}.s-cancelled")).to_have_count(1)


def test_pictures_are_looked_at_and_the_focus_comes_back(desk: Desk, page: Any) -> None:
    group = desk.submit(2)
    desk.until_ended(group)
    page.goto(f"{desk.url}/groups/{group}")
    tab_to(page, page.locator(".picture").first)
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-title")).to_contain_text("1/2")
    expect(page.locator("#viewer-stage")).to_be_focused()
    tab_to(page, page.locator("#viewer-on"), most=10)
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-title")).to_contain_text("2/2")
    for key, title in (("ArrowLeft", "1/2"), ("ArrowRight", "2/2")):
        page.keyboard.press(key)
        expect(page.locator("#viewer-title")).to_contain_text(title)
    page.keyboard.press("z")
    expect(page.locator("#viewer-zoom")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator(".picture").nth(1)).to_be_focused()
