"""The list of groups: what was made is seen at once, and groups are found, renamed, archived and
deleted in it.
"""

import re
from typing import Any

from playwright.sync_api import expect

from tests.browser.desk import Desk


def test_list_shows_pictures_finds_by_prompt_and_seed_and_clears_up(page: Any, desk: Desk) -> None:
    made = desk.submit_to_pool(9, base_seed=4711)
    other = desk.submit(1, name="Another shot")
    for group_id in (made, other):
        desk.until_ended(group_id)
    page.goto(desk.url)
    row = page.locator(f"#{made}")
    # A row of 44 pixels has five pictures, a large one eight; the browser keeps the choice.
    assert row.bounding_box()["height"] == 44
    assert [one.bounding_box()["width"] for one in row.locator("img:visible").all()] == [36] * 5
    page.get_by_label("Large rows").check()
    page.reload()
    expect(row.locator("img:visible")).to_have_count(8)
    box = row.locator("img").first.bounding_box()
    assert (box["width"], box["height"]) == (120, 120)
    page.get_by_label("Large rows").uncheck()
    assert row.bounding_box()["height"] == 44
    page.set_viewport_size({"width": 390, "height": 844})
    assert row.bounding_box()["height"] == 44
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(row.locator(".bar")).to_have_count(0)  # It has ended.
    row.get_by_label("Actions of").click()
    row.get_by_role("button", name=f"Copy id {made}").click()
    expect(page.locator("#toast")).to_have_text(f"Copied {made}")

    row.get_by_label("Actions of").click()
    row.get_by_role("button", name="Rename").click()
    page.get_by_label("Name (empty").fill("Lighthouse")
    page.keyboard.press("Enter")
    expect(row.get_by_role("link", name="Lighthouse", exact=True)).to_be_visible()

    search = page.get_by_role("searchbox")
    seed = str(desk.status(made)["child_jobs"][0]["seed"])
    for text, count in (("lighthouse", 0), (seed, 0), (desk.status(made)["summary"]["prompt"], 1)):
        search.fill(text)
        expect(page).to_have_url(re.compile("text="))
        expect(page.locator(f"#{other}")).to_have_count(count)
        expect(row).to_be_visible()
        expect(search).to_be_focused()
        search.fill("")
        expect(page).to_have_url(f"{desk.url}/")
        expect(page.locator(f"#{other}")).to_be_visible()
    # The typing is one step of the history.
    search.fill("lighthouse")
    expect(page.locator(f"#{other}")).to_have_count(0)
    page.go_back()
    expect(page.locator(f"#{other}")).to_be_visible()
    expect(search).to_have_value("")

    row.get_by_label("Actions of").click()
    row.get_by_role("button", name="Archive").click()
    expect(row).to_have_count(0)
    page.get_by_text("More filters").click()
    page.get_by_label("Archived").check()
    expect(row).to_contain_text("Archived")
    expect(page.locator(f"#{other}")).to_have_count(0)
    page.go_back()
    expect(page.get_by_label("Archived")).not_to_be_checked()
    page.goto(f"{desk.url}?text=lighthouse&submitter=ben")
    expect(page.get_by_role("link", name="Search archived groups")).to_have_attribute(
        "href", re.compile("submitter=ben&archived=yes")
    )

    page.goto(desk.url)
    page.get_by_role("button", name="Last week").click()
    expect(page).to_have_url(re.compile(r"\?since=\d{4}-\d\d-\d\d$"))
    expect(page.get_by_role("button", name="Last week")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(f"#{other}")).to_be_visible()
    page.get_by_text("More filters").click()
    page.get_by_label("To").fill("2026-01-02")
    expect(page.get_by_role("heading", name="No matching groups")).to_be_visible()
    page.get_by_role("link", name="Clear").click()
    page.locator(f"#{other} input[name=pick]").check()
    page.get_by_role("button", name="Delete groups").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 job and 1 stored file")
    expect(dialog).to_contain_text("Files in the folders of the backends stay there")
    dialog.get_by_role("button", name="Delete the group").click()
    expect(page.locator(f"#{other}")).to_have_count(0)
    assert desk.http.get(f"{desk.url}/api/job-groups/{other}").status_code == 404


def test_own_groups_are_those_of_the_name_that_the_browser_keeps(page: Any, desk: Desk) -> None:
    own, other = (desk.submit(1, submitter=name) for name in ("ben", "ann"))
    page.goto(desk.url)
    expect(page.locator(f"#{other}")).to_be_visible()
    expect(page.get_by_label("Mine")).to_be_hidden()
    page.evaluate("localStorage.setItem('director.submitter', 'ben')")
    page.reload()
    page.get_by_label("Mine").check()
    expect(page.locator(f"#{other}")).to_have_count(0)
    expect(page.locator(f"#{own}")).to_be_visible()
    expect(page).to_have_url(re.compile("submitter=ben"))
    page.reload()
    page.get_by_label("Mine").uncheck()
    expect(page.locator(f"#{other}")).to_be_visible()


def test_a_row_that_runs_shows_its_live_preview(page: Any, desk: Desk) -> None:
    page.goto(desk.url)
    expect(page.locator("#line-live")).to_have_text("live")
    desk.slow()
    group = desk.submit(2)
    preview = page.locator(f"#{group} .preview")
    expect(preview).to_be_visible()
    assert preview.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    box = preview.bounding_box()
    assert (box["width"], box["height"]) == (36, 36)
    desk.withdraw()
    expect(page.locator(f"#{group} .thumb")).to_have_count(2)
