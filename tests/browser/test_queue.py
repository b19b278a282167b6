"""The queue: what runs and what is next, and its order by buttons, by dragging and by priorities."""

from typing import Any

from playwright.sync_api import expect

from tests.browser.desk import Desk, hold
from tests.harness.waits import until


def test_queue_shows_the_order_and_a_person_changes_it(desk: Desk, page: Any) -> None:
    desk.stick()
    for name in ("Urgent", "First", "Second", "Third"):
        desk.submit_to_pool(9, name=name, submitter="mara", priority=60 if name == "Urgent" else 50)
    desk.submit_to_pool(1, name="Late", submitter="nils", priority=20)
    page.goto(f"{desk.url}/")
    page.get_by_role("link", name="Queue").click()
    names = page.locator("#queue .name")
    expect(names).to_have_text(["Urgent", "First", "Second", "Third", "Late"])
    row = page.locator(".queued", has_text="Late")
    expect(row).to_contain_text("4 groups have a higher priority")
    expect(row.get_by_role("button", name="Move")).to_have_count(0)
    expect(page.locator(".queued", has_text="Urgent")).to_contain_text("running")

    up = page.get_by_role("button", name="Move Third up")
    up.focus()
    page.keyboard.press("Enter")
    expect(names).to_have_text(["Urgent", "First", "Third", "Second", "Late"])
    expect(up).to_be_focused()
    # The focus stays where the person has moved it before the order changes.
    held = hold(page, "**/next", times=1)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    until(lambda: page.wait_for_timeout(20) or held)
    held[0].continue_()
    expect(names).to_have_text(["Urgent", "Third", "First", "Second", "Late"])
    expect(page.get_by_role("button", name="Move Third down")).to_be_focused()
    page.keyboard.press("Enter")
    expect(names).to_have_text(["Urgent", "First", "Third", "Second", "Late"])
    page.get_by_role("button", name="Move First down").click()
    expect(names).to_have_text(["Urgent", "Third", "First", "Second", "Late"])
    page.locator(".queued", has_text="Second").drag_to(page.locator(".queued", has_text="Third"))
    expect(names).to_have_text(["Urgent", "Second", "Third", "First", "Late"])

    page.get_by_label("Actions of First").click()
    page.locator(".queued", has_text="First").get_by_role("button", name="Start next").click()
    expect(names).to_have_text(["Urgent", "First", "Second", "Third", "Late"])
    expect(page.locator(".queued", has_text="Second")).to_contain_text("to the front")
    page.get_by_label("Actions of Late").click()
    page.locator(".queued", has_text="Late").get_by_label("Priority").fill("100")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["Late", "Urgent", "First", "Second", "Third"])

    page.get_by_label("Actions of Third").click()
    page.locator(".queued", has_text="Third").get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("not yet")
    dialog.get_by_role("button", name="Pause").click()
    held = page.get_by_role("list", name="Not sent now")
    expect(held).to_contain_text("Paused: not yet.")
    page.get_by_role("button", name="Pause the queue").click()
    dialog.get_by_role("button", name="Pause").click()
    expect(page.locator(".farm-pause")).to_contain_text("The whole farm is paused.")
    page.get_by_role("button", name="Resume the queue").click()
    expect(page.locator(".farm-pause")).not_to_contain_text("paused")
    page.get_by_label("Actions of Third").click()
    held.get_by_role("button", name="Resume").click()
    expect(held).to_have_count(0)

    page.get_by_label("Submitter").select_option("nils")
    page.wait_for_url("**/queue?submitter=nils*")
    expect(names).to_have_text(["Late"])
