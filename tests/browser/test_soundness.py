"""What must hold on every page: nothing serious for axe, nothing wider than a phone, markup is text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.desk import Desk

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe")

LONG = "A very long name <b>with markup</b> " + "and_no_blanks_" * 14
MARKUP = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def bad_day(desk: Desk) -> str:
    """A group with pictures, a failure, something cancelled, and names that nobody expects."""
    desk.order(0, name="node_error", message=f"Out of memory {MARKUP}", after=1)
    group = desk.submit(
        8,
        metadata={"name": LONG[:200], "artist": MARKUP, MARKUP: 1},
        backend_ids=[desk.backend_ids()[index % 4] for index in range(7)] + ["nobody"],
    )
    last = desk.status(group)["child_jobs"][-1]["job_id"]
    desk.http.delete(f"{desk.url}/api/job-groups/{group}/jobs/{last}")
    status = desk.until_ended(group)
    assert status["failed_count"] == 1
    return group


@pytest.fixture(params=["light", "dark"])
def themed(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(
        color_scheme=request.param, viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
    )
    yield context.new_page()
    context.close()


def serious(page: Any) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0].get('failureSummary', '')}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_axe_finds_nothing_serious(desk: Desk, themed: Any, bad_day: str) -> None:
    for path in (
        "/",
        "/?text=nothing+fits",
        f"/groups/{bad_day}",
        "/failures",
        "/backends",
        "/submit",
        "/groups/jg_no",
    ):
        themed.goto(f"{desk.url}{path}")
        expect(themed.locator("#line-live")).to_have_text("live")
        assert serious(themed) == [], path


def test_axe_finds_nothing_serious_with_things_open(desk: Desk, themed: Any, bad_day: str) -> None:
    themed.goto(f"{desk.url}/groups/{bad_day}")
    themed.get_by_text("About this group").click()
    themed.locator(".trace summary").first.click()
    assert serious(themed) == []
    themed.locator(".picture").first.click()
    themed.locator("#viewer").wait_for()
    assert serious(themed) == []
    themed.goto(f"{desk.url}/backends")
    themed.get_by_role("button", name="Add a backend").click()
    assert serious(themed) == []
    themed.goto(f"{desk.url}/failures")
    themed.get_by_role("button", name="Quarantine").first.click()
    expect(themed.get_by_role("dialog")).to_be_visible()
    assert serious(themed) == []
    themed.goto(f"{desk.url}/submit?from={bad_day}")
    themed.get_by_label("Base seed").fill("x")
    themed.get_by_role("button", name="Submit", exact=True).click()
    assert serious(themed) == []


def test_nothing_is_wider_than_a_phone(desk: Desk, page: Any, bad_day: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", f"/groups/{bad_day}", "/failures", "/backends", f"/submit?from={bad_day}", "/groups/jg_no"):
        page.goto(f"{desk.url}{path}")
        expect(page.locator("#line-live")).to_have_text("live")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_markup_in_names_metadata_and_errors_is_text(desk: Desk, page: Any, bad_day: str) -> None:
    page.goto(f"{desk.url}/groups/{bad_day}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<b>with markup</b>")
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text(MARKUP)
    expect(page.locator(".error-words").first).to_contain_text(MARKUP)
    assert page.locator('img[src="x"]').count() == 0
    assert "taken" not in page.title().split()
    page.goto(desk.url)
    expect(page.locator(f"#{bad_day} .name")).to_contain_text("<b>with markup</b>")
    expect(page.locator(f"#{bad_day} b")).to_have_count(0)


def test_a_left_out_backend_is_named(desk: Desk, page: Any, bad_day: str) -> None:
    page.goto(f"{desk.url}/groups/{bad_day}")
    page.get_by_text("1 backend left out").click()
    expect(page.locator("#skipped")).to_contain_text("nobody")


def test_an_unknown_group_gets_a_page_that_helps(desk: Desk, page: Any, bad_day: str) -> None:
    answer = page.goto(f"{desk.url}/groups/jg_000000000000")
    assert answer.status == 404
    expect(page.get_by_role("heading", level=1)).to_contain_text("jg_000000000000")
    page.get_by_label("Find a group").fill(bad_day)
    page.get_by_role("button", name="Find it").click()
    expect(page.locator(".row")).to_have_count(1)


def test_nothing_is_loaded_from_elsewhere_and_nothing_inline_runs(desk: Desk, page: Any, bad_day: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/", f"/groups/{bad_day}", "/backends", "/submit"):
        answer = page.goto(f"{desk.url}{path}")
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'self'" in policy
    assert [url for url in asked if not url.startswith((desk.url, "blob:", "data:"))] == []


def test_a_star_is_seen_in_another_browser_without_a_reload(desk: Desk, browser: Any, page: Any, bad_day: str) -> None:
    other = browser.new_context()
    try:
        elsewhere = other.new_page()
        for one in (page, elsewhere):
            one.goto(f"{desk.url}/groups/{bad_day}")
            expect(one.locator("#line-live")).to_have_text("live")
        star = page.get_by_role("button", name="Star job 3")
        seen = elsewhere.get_by_role("button", name="Star job 3")
        star.click()
        expect(seen).to_have_attribute("aria-pressed", "true", timeout=2_000)
        expect(elsewhere.get_by_role("link", name="Download 1 starred")).to_be_visible(timeout=2_000)
        seen.click()
        expect(star).to_have_attribute("aria-pressed", "false", timeout=2_000)
        expect(page.get_by_role("link", name="Download 1 starred")).to_have_count(0)
    finally:
        other.close()


def test_kept_pictures_are_starred_and_can_be_fetched_together(desk: Desk, page: Any, bad_day: str) -> None:
    page.goto(f"{desk.url}/groups/{bad_day}")
    page.get_by_role("button", name="Star job 2").click()
    expect(page.get_by_role("link", name="Download 1 starred")).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download 1 starred").click()
    assert waiting.value.suggested_filename.endswith("-starred.zip")
    page.reload()
    expect(page.get_by_role("button", name="Star job 2")).to_have_attribute("aria-pressed", "true")
