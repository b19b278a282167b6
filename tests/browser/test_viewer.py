"""The viewer: zoom, keys, the film strip, the job of a file; and pictures that it cannot show as
they are.
"""

from typing import Any

import pytest
from playwright.sync_api import expect

from jobgroups.domain import media_types
from tests.browser.desk import Desk, desk_of, wait_loaded
from tests.browser.test_media import silence
from tests.harness.simulator_thread import SimulatorThread

#: The least that the setting takes; the simulator's picture of this size is longer.
LIMIT = 2**16
SIDE = 2_048


narrow = desk_of(DIRECTOR_PROXY_MAX_BYTES=str(LIMIT), DIRECTOR_CAPTURE="0")


def shown_width(page: Any) -> int:
    image = page.locator("#viewer-image")
    wait_loaded(page, image, "> 320")
    return int(image.evaluate("image => image.naturalWidth"))


_SAID = {
    "Model": "tiny_sd15",
    "Size": "512 × 384",
    "Steps": "4",
    "Sampler": "euler, normal",
    "Denoise": "1",
}
#: Left and top of the picture in the stage, its width and height; the same of the stage in the
#: window.
_BOXES = """() => {
  const [stage, image] = ["stage", "image"].map((id) => document.getElementById(`viewer-${id}`).getBoundingClientRect());
  return [image.x - stage.x, image.y - stage.y, image.width, image.height, stage.x, stage.y, stage.width, stage.height];
}"""


def test_a_small_picture_fills_the_window_and_is_zoomed_where_the_pointer_is(
    desk: Desk, page: Any
) -> None:
    group = desk.submit(3, parameters={"width": 96, "height": 64})
    desk.until_ended(group)
    page.goto(f"{desk.url}/groups/{group}")
    page.locator(".picture").nth(1).press("Enter")
    expect(page.locator("#viewer-stage")).to_be_focused()
    scale, title, image, keys = (
        page.locator(f"#viewer-{name}") for name in ("scale", "title", "image", "keys")
    )
    wait_loaded(page, image, "=== 96")
    x, y, fitted, height, left, top, *room = page.evaluate(_BOXES)
    assert (height, x * 2 + fitted) == pytest.approx((room[1], room[0]))
    # The same point of the picture stays below the pointer.
    at = (x + fitted * 0.3, y + height * 0.6)
    page.mouse.move(left + at[0], top + at[1])
    page.mouse.wheel(0, -300)
    expect(page.locator("#viewer-zoom")).to_have_attribute("aria-pressed", "true")
    x, y, width, height, *_ = page.evaluate(_BOXES)
    assert (at[0] - x, at[1] - y) == pytest.approx((width * 0.3, height * 0.6), abs=0.5)
    page.mouse.down()
    page.mouse.move(left + at[0] - 40, top + at[1] - 30, steps=3)
    page.mouse.up()
    # The next picture of the same shape is shown at the same place; a drag is no click.
    page.keyboard.press("ArrowRight")
    expect(title).to_contain_text("3/3")
    wait_loaded(page, image, "=== 96")
    assert page.evaluate(_BOXES)[:4] == pytest.approx([x - 40, y - 30, width, height], abs=0.5)
    for key, shown in (("1", "100 %"), ("+", "150 %"), ("-", "100 %")):
        page.keyboard.press(key)
        expect(scale).to_have_text(shown)
    for turn, shown in ((9_000, "100 %"), (-9_000, f"{fitted / 96 * 2:.0%}".replace("%", " %"))):
        page.mouse.wheel(0, turn)
        expect(scale).to_have_text(shown)
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement?.id === 'viewer-frame'")
    page.keyboard.press("f")
    page.keyboard.press("?")
    expect(keys).to_be_visible()
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.locator("#viewer-strip button").first.click()
    expect(title).to_contain_text("1/3")
    # A swipe shows the next one, two taps enlarge it.
    page.keyboard.press("0")
    session = page.context.new_cdp_session(page)
    for kind, x in (
        ("Start", 600),
        ("Move", 400),
        ("End", 0),
        ("Start", 500),
        ("End", 0),
        ("Start", 500),
        ("End", 0),
    ):
        points = [{"x": x, "y": 400}] if x else []
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    expect(title).to_contain_text("2/3")
    expect(page.locator("#viewer-zoom")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".picture").nth(1)).to_be_focused()


def test_the_job_of_a_file_is_shown_and_starred_beside_it(desk: Desk, page: Any) -> None:
    axes = [
        {"input": "6.text", "values": ["an <b>owl", "a fox"]},
        {"input": "3.cfg", "values": [5, 7.5]},
    ]
    group = desk.submit_sweep(
        {"axes": axes}, base_seed=77, parameters={"width": 512, "height": 384, "steps": 4}
    )
    children = desk.until_ended(group)["child_jobs"]
    page.goto(f"{desk.url}/groups/{group}?view=jobs")
    page.locator(".picture").first.click()
    page.keyboard.press("i")
    panel, strip = page.locator("#viewer-info"), page.locator("#viewer-strip")
    for number, child in enumerate(children):
        expect(panel.get_by_role("heading", name=f"Job {number + 1}")).to_be_visible()
        expect(panel.get_by_role("group", name="Prompt", exact=True)).to_have_text(
            child["variation"]["6.text"]
        )
        made = dict(
            zip(*(panel.locator(one).all_text_contents() for one in ("dt", "dd")), strict=True)
        )
        assert made.pop("Time").endswith(" s")
        varied = {
            "CFG": f"{child['variation']['3.cfg']}",
            "Backend": child["backend_id"].replace("_", ":"),
        }
        assert made == _SAID | varied | {"Seed": "77 copy the seed"}
        link = f"/submit?from={group}&job={child['job_id']}"
        expect(panel.get_by_role("link", name="Use these")).to_have_attribute("href", link)
        expect(strip.locator("li").nth(number).locator("[aria-current]")).to_be_in_viewport()
        page.keyboard.press("ArrowRight")
    assert shown_width(page) == 512
    with page.expect_download() as waiting:
        page.locator("#viewer-save").click()
    assert waiting.value.suggested_filename.endswith(".png")
    panel.get_by_role("button", name="Copy the prompt").click()
    expect(page.locator("#toast")).to_be_visible()
    with page.expect_response("**/star") as starred:
        page.keyboard.press("s")
    expect(strip.locator("li.starred")).to_have_count(1)
    # Another user takes it away.
    desk.http.delete(starred.value.url)
    expect(page.locator("#viewer-star")).to_have_attribute("aria-pressed", "false")


def test_one_too_large_is_shown_smaller_with_a_link_to_the_original(
    narrow: Desk, page: Any
) -> None:
    group = narrow.submit(2, parameters={"width": SIDE, "height": SIDE})
    first, second = (child["backend_id"] for child in narrow.until_ended(group)["child_jobs"])
    page.goto(f"{narrow.url}/groups/{group}")
    page.locator(".picture").first.click()
    assert shown_width(page) == SIDE
    expect(page.locator("#viewer-note")).to_have_text("This is a smaller copy.")
    expect(page.locator("#viewer-save")).to_be_hidden()
    original = page.locator("#viewer-original")
    expect(original).to_contain_text(f"Original at {first} (")
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
    expect(original).to_contain_text(f"Original at {second} (")


def test_why_one_that_is_gone_is_small_is_said(narrow: Desk, page: Any) -> None:
    group = narrow.submit(2, parameters={"width": 640, "height": 480})
    narrow.until_ended(group)
    page.goto(f"{narrow.url}/groups/{group}")
    thumbnail = page.locator(".picture img").first
    wait_loaded(page, thumbnail)
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


def test_an_open_page_shows_that_a_picture_was_replaced(
    narrow: Desk, page: Any, simulators: SimulatorThread
) -> None:
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
    wait_loaded(page, thumbnail)
    render()
    expect(page.locator(".note")).to_contain_text("was replaced: a later file on")
    expect(page.locator(".picture.old")).to_have_count(1)
    assert thumbnail.evaluate("image => image.naturalWidth") > 0
    expect(page.locator("main a", has_text="Download")).to_have_count(0)
    page.locator(".picture").click()
    expect(page.locator("#viewer-note")).to_contain_text("The output is gone. It was replaced")
    expect(page.locator("#viewer-save")).to_be_hidden()
    wait_loaded(page, page.locator("#viewer-image"), "=== 320")


@pytest.mark.parametrize(("name", "content"), [("a.wav", silence(1)), ("a.txt", b"a poem")])
def test_a_sound_or_a_text_is_shown_in_a_tab_of_its_own(
    page: Any, name: str, content: bytes
) -> None:
    headers = {**media_types.guard_headers(name), "Content-Type": media_types.media_type(name)}
    page.route("**/*", lambda route: route.fulfill(headers=headers, body=content))
    page.goto(f"http://localhost:9820/{name}")
    if name == "a.txt":
        expect(page.locator("body")).to_have_text("a poem")
        return
    # Chromium plays it in a page that it makes itself.
    page.wait_for_function("() => document.querySelector('video, audio').duration === 1")
