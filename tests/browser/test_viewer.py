"""Pictures that the viewer cannot show as they are, as they were not captured: too large to be carried, or gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobgroups.domain import media_types
from tests.browser.desk import Desk, wait_loaded
from tests.browser.test_media import silence
from tests.harness.simulator_thread import SimulatorThread

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect

#: The least that the setting takes; the simulator's picture of this size is longer.
LIMIT = 2**16
SIDE = 2_048


@pytest.fixture(scope="module")
def narrow(simulators: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder: Path = tmp_path_factory.mktemp("narrow")
    made = Desk(folder, simulators, DIRECTOR_PROXY_MAX_BYTES=str(LIMIT), DIRECTOR_CAPTURE="0")
    yield made
    made.close()


@pytest.fixture(scope="module")
def large(narrow: Desk) -> str:
    """A group with two pictures that are too long to be carried."""
    group = narrow.submit(2, parameters={"width": SIDE, "height": SIDE})
    status = narrow.until_ended(group)
    for child in status["child_jobs"]:
        url = f"{narrow.url}/api/job-groups/{group}/jobs/{child['job_id']}/outputs/0?redirect=no"
        answer = narrow.http.get(url)
        assert (answer.status_code, answer.json()["bytes"] > LIMIT) == (413, True), answer.text
    return group


def shown_width(page: Any) -> int:
    image = page.locator("#viewer-image")
    wait_loaded(page, image, "> 320")
    return int(image.evaluate("image => image.naturalWidth"))


def test_one_too_large_is_shown_smaller_with_a_link_to_the_original(narrow: Desk, page: Any, large: str) -> None:
    page.goto(f"{narrow.url}/groups/{large}")
    page.locator(".picture").first.click()
    assert shown_width(page) == SIDE
    expect(page.locator("#viewer-note")).to_have_text("This is a smaller copy.")
    expect(page.locator("#viewer-save")).to_be_hidden()
    original = page.locator("#viewer-original")
    backend = narrow.status(large)["child_jobs"][0]["backend_id"]
    expect(original).to_contain_text(f"Original at {backend} (")
    expect(original).to_contain_text("MB)")
    with page.context.expect_page() as opening:
        original.click()
    opened = opening.value
    opened.wait_for_load_state()
    assert opened.url.startswith(str(original.get_attribute("href")))
    assert opened.evaluate("document.images[0].naturalWidth") == SIDE
    opened.close()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("2/2")
    second = narrow.status(large)["child_jobs"][1]["backend_id"]
    expect(original).to_contain_text(f"Original at {second} (")


def test_one_that_is_carried_is_the_original_and_can_be_downloaded(desk: Desk, page: Any) -> None:
    group = desk.submit(1, parameters={"width": 512, "height": 384})
    desk.until_ended(group)
    page.goto(f"{desk.url}/groups/{group}")
    page.locator(".picture").click()
    assert shown_width(page) == 512
    expect(page.locator("#viewer-note")).to_be_hidden()
    expect(page.locator("#viewer-original")).to_be_hidden()
    with page.expect_download() as waiting:
        page.locator("#viewer-save").click()
    assert waiting.value.suggested_filename.endswith(".png")


def test_why_one_that_is_gone_is_small_is_said(narrow: Desk, page: Any) -> None:
    group = narrow.submit(2, parameters={"width": 640, "height": 480})
    narrow.until_ended(group)
    page.goto(f"{narrow.url}/groups/{group}")
    thumbnail = page.locator(".picture img").first
    wait_loaded(page, thumbnail, "=== 320")
    narrow.order(0, name="status", status=404, route="/view", count=0)
    try:
        page.locator(".picture").first.click()
        expect(page.locator("#viewer-note")).to_contain_text("does not have the file any more")
        wait_loaded(page, page.locator("#viewer-image"), "=== 320")
    finally:
        narrow.withdraw()
    page.keyboard.press("ArrowRight")
    assert shown_width(page) == 640
    expect(page.locator("#viewer-note")).to_be_hidden()


def test_an_open_page_shows_that_a_picture_was_replaced(narrow: Desk, page: Any, simulators: SimulatorThread) -> None:
    """Its thumbnail stays, with a label; its original is lost, and no later one is shown for it."""

    def render() -> str:
        for file in simulators[0].output_folder.glob("*.png"):
            file.unlink()
        group = narrow.submit(1, parameters={"width": 640, "height": 480})
        narrow.until_ended(group)
        return group

    group = render()
    page.goto(f"{narrow.url}/groups/{group}")
    thumbnail = page.locator(".picture img")
    wait_loaded(page, thumbnail, "=== 320")
    render()
    expect(page.locator(".note")).to_contain_text("was replaced: a later file on")
    expect(page.locator(".picture.old")).to_have_count(1)
    assert thumbnail.evaluate("image => image.naturalWidth") == 320
    expect(page.locator("main a", has_text="Download")).to_have_count(0)
    page.locator(".picture").click()
    expect(page.locator("#viewer-note")).to_contain_text("The output is gone. It was replaced")
    expect(page.locator("#viewer-save")).to_be_hidden()
    wait_loaded(page, page.locator("#viewer-image"), "=== 320")


@pytest.mark.parametrize(("name", "content"), [("a.wav", silence(1)), ("a.txt", b"a poem")])
def test_a_sound_or_a_text_is_shown_in_a_tab_of_its_own(page: Any, name: str, content: bytes) -> None:
    headers = {**media_types.guard_headers(name), "Content-Type": media_types.media_type(name)}
    page.route("**/*", lambda route: route.fulfill(headers=headers, body=content))
    page.goto(f"http://localhost:9820/{name}")
    if name == "a.txt":
        expect(page.locator("body")).to_have_text("a poem")
        return
    # Chromium plays it in a page that it makes itself.
    page.wait_for_function("document.querySelector('video, audio').duration === 1")
