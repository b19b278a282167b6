"""The gallery: it loads as one scrolls, and has the viewer, the filters and the stars."""

import json
import re
from typing import Any

from playwright.sync_api import expect

from tests.browser.desk import Desk, submit


def test_gallery_loads_as_one_scrolls_filters_and_stars(desk: Desk, page: Any) -> None:
    many = desk.submit(1, parameters={"width": 64, "height": 64, "batch_size": 64})
    few = desk.submit(2, name="Beacon")
    for group in (many, few):
        desk.until_ended(group)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{desk.url}/gallery?group={many}")
    tiles = page.locator(".tile")
    first = tiles.first.locator("img")
    expect(tiles).to_have_count(60)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(tiles).to_have_count(64)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    # What is far away leaves the memory, and comes back.
    expect(first).not_to_have_attribute("src", re.compile("."))
    page.evaluate("scrollTo(0, 0)")
    expect(first).to_have_attribute("src", re.compile(r"w=320$"))

    page.reload()
    tiles.first.locator(".picture").click()
    expect(page.locator("#viewer-title")).to_contain_text("1/60")
    with page.expect_response("**/parts/gallery?*"):
        page.keyboard.press("End")
    expect(tiles).to_have_count(64)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("61/64")
    with page.expect_response("**/star"):
        page.keyboard.press("s")
    page.keyboard.press("i")
    expect(page.locator("#viewer-info")).to_contain_text("Job 1")
    page.keyboard.press("i")
    page.keyboard.press("Escape")
    # The star is that of the job, which made all of them.
    expect(page.locator(".tile > .star[aria-pressed=true]")).to_have_count(64)

    page.goto(desk.url)
    page.get_by_role("link", name="Gallery").click()
    page.get_by_role("searchbox").fill("beacon")
    expect(tiles).to_have_count(2)
    expect(page.get_by_role("searchbox")).to_be_focused()
    for index in (0, 1):
        tiles.nth(index).hover()
        tiles.nth(index).get_by_role("checkbox").check()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as zip").click()
    assert waiting.value.suggested_filename == "outputs.zip"
    page.get_by_role("button", name="Star", exact=True).click()
    expect(page.locator("#toast")).to_have_text("2 jobs starred.")
    assert [job["starred"] for job in desk.status(few)["child_jobs"]] == [True, True]
    page.get_by_role("button", name="Last week").click()
    expect(page.get_by_role("button", name="Last week")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Starred").check()
    page.wait_for_url("**starred=yes*")
    expect(tiles).to_have_count(2)
    page.get_by_text("More filters").click()
    page.get_by_label("Kind").select_option("video")
    expect(page.get_by_role("heading", name="No matching outputs")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Kind")).to_have_value("")
    tiles.first.hover()
    tiles.first.get_by_role("link", name="Beacon").click()
    page.wait_for_url(f"**/groups/{few}?job=*")


def test_chosen_outputs_become_the_input_of_the_next_workflow(desk: Desk, page: Any) -> None:
    made = desk.submit(2, parameters={"width": 64, "height": 64})
    desk.until_ended(made)
    page.goto(f"{desk.url}/gallery?group={made}")
    for index in (0, 1):
        page.locator(".tile").nth(index).hover()
        page.locator(".tile").nth(index).get_by_role("checkbox").check()
    page.get_by_role("button", name="Use as input").click()
    said = page.locator("#workflow-said")
    expect(said).to_contain_text("2 chosen files of the gallery will be its input.")
    expect(page.locator(".recent a").first).to_have_attribute(
        "href", re.compile("from=.*input=.*input=")
    )
    # One input takes both: a job for each.
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    page.get_by_text("Or paste it as JSON").click()
    page.locator("#paste").fill(json.dumps(graph))
    expect(page.locator("#sweep-said")).to_contain_text("2 jobs")
    expect(page.locator(".axis [role=status]", has_text="Uploaded.")).to_have_count(2)
    status = desk.until_ended(submit(page))
    assert status["completed_count"] == 2
    inputs = {job["variation"]["1.image"]["info"]["id"] for job in status["child_jobs"]}
    assert len(inputs) == 2
