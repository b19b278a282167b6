"""The form of a new group: what people bring that is no workflow, and what is sent."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from director.demo.workflow import text_to_image
from tests.browser.desk import Desk

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


def png(workflow: str | None) -> bytes:
    kept = PngInfo()
    if workflow is not None:
        kept.add_text("prompt", workflow)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=kept)
    return out.getvalue()


def test_a_picture_made_by_comfyui_brings_its_workflow_and_twelve_are_two_clicks(desk: Desk, page: Any) -> None:
    # A number that JavaScript cannot hold goes through untouched.
    graph = text_to_image()
    graph["5"]["_meta"]["big"] = 2**63 + 1
    page.goto(f"{desk.url}/submit")
    page.locator("#file").set_input_files({"name": "p.png", "mimeType": "image/png", "buffer": png(json.dumps(graph))})
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes from p.png")
    page.get_by_role("button", name="12 jobs on all backends").click()
    expect(page.locator("#sends")).to_have_text("12 jobs on 4 backends")
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/groups/jg_*")
    group = page.url.rsplit("/", 1)[1]
    status = desk.status(group)
    ids = [child["backend_id"] for child in status["child_jobs"]]
    assert {ids.count(one) for one in desk.backend_ids()} == {3}
    stored = desk.http.get(f"{desk.url}/api/job-groups/{group}/workflow").json()
    assert stored == graph
    desk.clear()


def test_changed_inputs_go_along_as_parameters_and_seeds_are_shown(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/submit")
    page.get_by_text("Or paste it as JSON").click()
    page.locator("#paste").fill(json.dumps(text_to_image()))
    page.get_by_label("steps · KSampler").fill("7")
    page.get_by_label("Strategy").select_option("fibonacci")
    page.locator("#count").fill("4")
    page.get_by_label("Base seed").fill("42")
    expect(page.locator("#seeds")).to_have_text("42, 1042, 2042, 4042")
    page.get_by_text("The same as a curl command").click()
    expect(page.locator("#curl")).to_contain_text('"3.steps":7')
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/groups/jg_*")
    status = desk.status(page.url.rsplit("/", 1)[1])
    assert [child["seed"] for child in status["child_jobs"]] == [42, 1042, 2042, 4042]
    page.get_by_role("link", name="New group with changes").click()
    expect(page.get_by_label("steps · KSampler")).to_have_value("7")
    expect(page.locator("#count")).to_have_value("4")
    desk.clear()


def test_your_name_is_asked_once_in_a_browser_and_groups_are_found_by_it(desk: Desk, page: Any) -> None:
    def submit() -> str:
        page.get_by_text("Or paste it as JSON").click()
        page.locator("#paste").fill(json.dumps(text_to_image()))
        expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
        page.get_by_role("button", name="Submit", exact=True).click()
        page.wait_for_url("**/groups/jg_*")
        return str(page.url.rsplit("/", 1)[1])

    page.goto(f"{desk.url}/submit")
    page.get_by_label("Your name").fill("  Ann <b>O'Hara</b> ")
    first = submit()
    assert desk.status(first)["submitter"] == "Ann <b>O'Hara</b>"
    page.goto(f"{desk.url}/submit")
    expect(page.get_by_label("Your name")).to_have_value("Ann <b>O'Hara</b>")
    page.get_by_label("Your name").fill("")
    second = submit()
    assert desk.status(second)["submitter"] is None
    page.goto(f"{desk.url}/submit")
    expect(page.get_by_label("Your name")).to_have_value("")
    page.goto(desk.url)
    expect(page.locator(f"#{second}")).to_be_visible()
    page.get_by_label("Submitter").select_option("Ann <b>O'Hara</b>")
    page.wait_for_url("**submitter=Ann*")
    expect(page.locator(f"#{first}")).to_contain_text("Ann <b>O'Hara</b>")
    expect(page.locator(f"#{second}")).to_have_count(0)
    desk.clear()
