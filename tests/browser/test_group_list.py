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
    expect(row.locator("img")).to_have_count(8)
    box = row.locator("img").first.bounding_box()
    assert (box["width"], box["height"]) == (120, 120)
    expect(row.locator(".bar")).to_have_count(0)  # It has ended.

    row.get_by_label("Actions of").click()
    row.get_by_role("button", name="Rename").click()
    page.get_by_label("Name (empty").fill("Lighthouse")
    page.keyboard.press("Enter")
    expect(row.get_by_role("link", name="Lighthouse", exact=True)).to_be_visible()

    search = page.get_by_role("searchbox")
    for text in (
        "lighthouse",
        str(desk.status(made)["child_jobs"][0]["seed"]),
        desk.status(made)["summary"]["prompt"],
    ):
        search.fill(text)
        search.press("Enter")
        page.wait_for_url("**/?text=*")
        expect(row).to_be_visible()
    page.goto(desk.url)

    row.get_by_label("Actions of").click()
    row.get_by_role("button", name="Archive").click()
    expect(row).to_have_count(0)
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
    page.locator(f"#{other} input[name=pick]").check()
    page.get_by_role("button", name="Delete groups").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 job and 1 stored file")
    expect(dialog).to_contain_text("Files in the folders of the backends stay there")
    dialog.get_by_role("button", name="Delete the group").click()
    expect(page.locator(f"#{other}")).to_have_count(0)
    assert desk.http.get(f"{desk.url}/api/job-groups/{other}").status_code == 404
