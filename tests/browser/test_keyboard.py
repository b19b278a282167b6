"""Without a mouse: submit, watch, compare, retry; cancel one job, a group and several groups."""

import json
from typing import Any

from playwright.sync_api import expect

from director.demo.workflow import text_to_image
from tests.browser.desk import Desk

#: Whether what has the focus shows it.
_SHOWN = "one => getComputedStyle(one).outlineStyle !== 'none' && one.matches(':focus-visible')"


def tab_to(page: Any, target: Any, *, most: int = 80, key: str = "Tab", press: str = "") -> None:
    """Press Tab until the target has the focus, which it must show; then press a key on it."""
    for _ in range(most):
        page.keyboard.press(key)
        if target.evaluate("one => one === document.activeElement"):
            assert target.evaluate(_SHOWN), "what has the focus does not show it"
            return page.keyboard.press(press) if press else None
    raise AssertionError(f"Tab never leads to {target}")


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def test_a_group_is_submitted_watched_compared_and_retried(desk: Desk, page: Any) -> None:
    desk.order(0, name="node_error", message="bad value", count=1)
    page.goto(f"{desk.url}/submit")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, page.locator("#paste-box summary"), press="Enter")
    tab_to(page, page.locator("#paste"))
    page.keyboard.insert_text(json.dumps(text_to_image()))
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    tab_to(page, page.get_by_label("steps · KSampler"))
    page.keyboard.press("Control+A")
    page.keyboard.type("7")
    tab_to(page, button(page, "4 jobs"), press="Enter")
    tab_to(page, button(page, "Submit"))
    tab_to(page, page.locator("#more > summary"), press="Enter")
    tab_to(page, page.locator("#name"))
    page.keyboard.type("By keyboard")
    tab_to(page, page.locator("#timeout"))
    page.keyboard.press("Control+A")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    expect(page.locator('[data-error="timeout_seconds"]')).to_contain_text("30 to 3600")
    page.keyboard.press("Control+A")
    page.keyboard.type("60")
    tab_to(page, page.locator("#tries"))
    page.keyboard.press("Control+A")
    page.keyboard.type("1")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/groups/jg_*")
    expect(page.get_by_role("heading", level=1)).to_have_text("By keyboard")
    expect(page.locator(".card.s-completed")).to_have_count(3)
    for number in range(2):
        tab_to(page, page.locator("[data-compare]").nth(number), press="Enter")
    compare = page.locator("#compare-open")
    tab_to(page, compare, press="Enter")
    page.keyboard.press("+")
    expect(page.locator("#compare-scale")).to_have_text("150 %")
    page.keyboard.press("Escape")
    expect(compare).to_be_focused()
    picture, viewer = page.locator(".picture").first, page.locator("#viewer")
    tab_to(page, picture, key="Shift+Tab", press="Enter")
    page.keyboard.press("i")
    expect(viewer.get_by_role("group", name="Prompt", exact=True)).to_be_visible()
    tab_to(page, viewer.get_by_role("link", name="Use these"))
    page.keyboard.press("?")
    expect(button(page.locator("#viewer-keys"), "Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(viewer.get_by_role("link", name="Use these")).to_be_focused()
    page.keyboard.press("Escape")
    expect(picture).to_be_focused()
    retry = button(page, "Retry 1 failed …")
    tab_to(page, retry, key="Shift+Tab", press="Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(retry).to_be_focused()
    # The browser reports a closing later: that of the first question is no answer to the second.
    retry.evaluate("one => { one.click(); document.querySelector('#place').close(); one.click(); }")
    tab_to(page, button(page, "Retry 1 job"), most=3, press="Enter")
    expect(page.locator(".card.s-completed")).to_have_count(4)


def test_a_group_is_cancelled_and_the_first_answer_is_no(desk: Desk, page: Any) -> None:
    desk.slow()
    group = desk.submit(2)
    page.goto(f"{desk.url}/groups/{group}")
    cancel = button(page, "Cancel group …")
    tab_to(page, cancel, press="Enter")
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
    tab_to(page, button(page, "Cancel the group"), most=3, press="Enter")
    expect(page.locator(".card.s-cancelled")).to_have_count(2)


def test_several_groups_are_chosen_and_cancelled(desk: Desk, page: Any) -> None:
    desk.slow()
    groups = [desk.submit(1, metadata={"name": f"Of two {n}"}) for n in range(2)]
    page.goto(f"{desk.url}/?text=Of+two&hide=finished")
    place = page.locator(".rows").bounding_box()
    for group in reversed(groups):
        tab_to(page, page.locator(f"#{group} input[name=pick]"), press="Space")
    expect(page.locator("#selection-count")).to_have_text("2 selected")
    assert page.locator(".rows").bounding_box() == place, "a selection moves what is chosen from"
    menu = page.get_by_label("Actions of Of two 0")
    tab_to(page, menu, press="Enter")
    tab_to(page, button(page, "Rename …"), most=4, press="Enter")
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    tab_to(page, page.locator("#selection-cancel"), press="Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Cancel 2 groups?")
    tab_to(page, button(page, "Cancel groups"), most=3, press="Enter")
    for group in groups:
        expect(page.locator(f"#{group}.s-cancelled")).to_have_count(1)
