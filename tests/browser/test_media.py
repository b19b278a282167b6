"""Videos, sounds, texts and files that no browser should execute, as jobs report them."""

import io
import random
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from backends.simulator import nodes
from backends.simulator.media import encode_webm
from backends.simulator.node_context import NodeContext, Outcome
from backends.simulator.pictures import encode_animation
from tests.browser.desk import Desk, wait_loaded
from tests.harness.graphs import black_png
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

Report = Callable[..., str]
SCRIPT = "<script>document.title = parent.document.title = 'executed'</script>"
SVG = f"<svg xmlns='http://www.w3.org/2000/svg' onload='parent.document.title=1'>{SCRIPT}</svg>".encode()


@pytest.fixture
def report(desk: Desk, monkeypatch: pytest.MonkeyPatch, page: Any) -> Report:
    """Render a job that saves these files and reports these texts; open the page of its group, and
    return its id.
    """

    def run(files: dict[str, bytes], **shown: list[Any]) -> str:
        group = rendered(desk, monkeypatch, files, **shown)
        page.goto(f"{desk.url}/groups/{group}")
        return group

    return run


def rendered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], **shown: list[Any]
) -> str:
    """Run a job that saves these files and reports these texts; return the id of its group."""

    async def save(ctx: NodeContext, _inputs: dict[str, Any]) -> Outcome:
        for name, content in files.items():
            Path(ctx.state.folders.of("output"), name).write_bytes(content)
        named = [{"filename": name, "subfolder": "", "type": "output"} for name in files]
        return Outcome(ui={"images": named, **shown})

    monkeypatch.setitem(nodes.RUNNERS, "SaveImage", save)
    group = desk.submit(1)
    assert desk.until_ended(group)["status"] == "completed"
    return group


def video(seconds: int, side: int = 64, *, noise: bool = False) -> bytes:
    rng = random.Random(seconds)
    still = Image.frombytes("RGB", (side, side), rng.randbytes(side * side * 3))
    frames = (
        still if noise else Image.new("RGB", (side, side), (0, 20 * n % 256, 0))
        for n in range(seconds * 2)
    )
    return encode_webm(frames, 2)


def silence(seconds: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8_000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 8_000 * seconds))
    return file.getvalue()


def state(page: Any, player: str, condition: str) -> None:
    page.wait_for_function(
        f"() => {{ const it = document.getElementById('viewer-{player}'); return {condition}; }}"
    )


def test_a_short_video_plays_in_a_loop_and_stops_with_the_viewer(page: Any, report: Report) -> None:
    report({"short.webm": video(3)})
    tile = page.get_by_role("button", name="Open short.webm")
    page.wait_for_function(
        "() => document.querySelector('.picture img')?.naturalWidth || "
        "document.querySelector('.picture video')?.readyState > 1"
    )
    tile.click()
    state(page, "video", "it.readyState >= 2 && it.duration === 3 && it.videoWidth === 64")
    state(page, "video", "it.loop && it.muted && !it.paused && it.currentTime > 0")
    page.keyboard.press("Space")
    state(page, "video", "it.paused")
    page.keyboard.press("Escape")
    expect(tile).to_be_focused()
    state(page, "video", "!it.hasAttribute('src') && it.networkState === 0")


def test_a_seek_in_a_long_video_loads_only_that_part(page: Any, report: Report) -> None:
    content = video(240, side=448, noise=True)
    group = report({"long.webm": content})
    assert len(content) > 40 * 2**20, group
    parts: list[int] = []

    def note(response: Any) -> None:
        if response.status == 206 and "/outputs/" in response.url:
            parts.append(
                int(response.headers["content-range"].removeprefix("bytes ").split("-")[0])
            )

    page.on("response", note)
    page.locator(".picture").click()
    state(page, "video", "it.duration === 240 && it.readyState >= 1 && it.paused && !it.muted")
    player = page.locator("#viewer-video")
    player.evaluate("it => { it.currentTime = 200; }")
    state(page, "video", "!it.seeking && it.currentTime === 200 && it.readyState >= 2")
    # The browser may have requested that part before the seek, with the index at the end of the
    # file; what it requests is known here somewhat later than what it shows.
    until(lambda: page.wait_for_timeout(20) or max(parts) > len(content) // 2)
    # Arrows seek while the player has the focus, and else go to another file.
    player.focus()
    page.keyboard.press("ArrowRight")
    state(page, "video", "it.currentTime > 200")


def test_the_browser_shows_the_first_frame_of_a_video_without_a_poster(
    page: Any, report: Report
) -> None:
    # ffmpeg, if it is there, takes no sound for a video.
    report({"sound.webm": silence(1)})
    expect(page.locator(".picture video")).to_have_count(1)
    page.wait_for_function("() => document.querySelector('.picture video').readyState >= 1")
    expect(page.locator(".picture img")).to_have_count(0)


def test_without_ffmpeg_a_video_has_a_sign_and_nothing_is_missing(
    simulators: SimulatorThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    desk = Desk(tmp_path, simulators)
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if not answer.ok else None)
    try:
        group = rendered(desk, monkeypatch, {"short.webm": video(3)})
        for path in (f"/groups/{group}", "/gallery", "/"):
            page.goto(f"{desk.url}{path}")
            expect(page.locator("#line-live")).to_have_text("live")
            expect(page.locator("main img, main video")).to_have_count(0)
        page.go_back()
        expect(page.locator("#line-live")).to_have_text("live")
        page.get_by_role("button", name="Open short.webm").click()
        state(page, "video", "it.readyState >= 2 && it.duration === 3")
    finally:
        desk.close()
    assert failed == []


def test_a_sound_plays(page: Any, report: Report) -> None:
    report(
        {
            "sound.wav": silence(2),
            "picture.webp": encode_animation(
                [Image.new("RGB", (9, 9), c) for c in ("red", "blue")], 2
            ),
        }
    )
    page.get_by_role("button", name="Open sound.wav").click()
    state(page, "audio", "it.duration === 2 && it.paused")
    page.keyboard.press("Space")
    state(page, "audio", "it.currentTime > 0.2 && !it.paused")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("picture.webp")
    expect(page.locator("#viewer-audio")).to_be_hidden()
    wait_loaded(page, page.locator("#viewer-image"), "=== 9")
    assert page.locator("#viewer-audio").evaluate("it => it.paused")


def test_a_text_is_shown_as_text_and_no_more_than_a_browser_can_bear(
    page: Any, report: Report
) -> None:
    report(
        {"long.txt": b"\xc3\xa9<b>" + b"x" * 300_000},
        text=[f"{SCRIPT} of a node", "y" * 2_500, None],
    )
    texts = page.locator(".output-text")
    expect(texts).to_have_count(2)
    expect(texts.first).to_have_text(f"{SCRIPT} of a node")
    expect(page.locator(".card")).to_contain_text("The first 2000 of 2500 characters.")
    page.get_by_role("button", name="Open long.txt").click()
    expect(page.locator("#viewer-note")).to_have_text("This is the beginning of the text.")
    shown = page.locator("#viewer-text").text_content()
    assert (shown[:5], len(shown)) == ("é<b>x", 200_000)
    assert page.title() != "executed"


def test_no_script_of_an_output_runs(desk: Desk, page: Any, report: Report) -> None:
    names = {
        "a.svg": SVG,
        "b.html": SCRIPT.encode(),
        "c.png": SVG,
        "d.txt": SCRIPT.encode(),
        "e.webm": SCRIPT.encode(),
    }
    group = report(names)
    job = desk.status(group)["child_jobs"][0]["job_id"]
    url = f"{desk.url}/api/job-groups/{group}/jobs/{job}/outputs"
    for number, name in enumerate(("a.svg", "b.html")):
        expect(page.get_by_role("button", name=f"Open {name}")).to_have_count(0)
        page.get_by_label("More about job 1").click()
        with page.expect_download() as saved:
            page.get_by_role("link", name=name).click()
        page.keyboard.press("Escape")
        assert saved.value.suggested_filename.endswith(name)
        # Not in a tab of its own either, nor in the page, where another page than ours may put it.
        page.evaluate(
            """([url, tag]) => new Promise((done) => {
              const one = document.createElement(tag);
              one.onload = one.onerror = done;
              one[tag === "object" ? "data" : "src"] = url;
              document.body.append(one);
              setTimeout(done, 1000);
            })""",
            [f"{url}/{number}", ("img", "iframe")[number]],
        )
    page.get_by_role("button", name="Open c.png").click()
    for name in ("c.png", "d.txt", "e.webm"):
        expect(page.locator("#viewer-title")).to_contain_text(name)
        if name != "d.txt":
            expect(page.locator("#viewer-note")).to_contain_text("cannot show the file")
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    opened = page.context.new_page()
    opened.goto(f"{url}/3")
    expect(opened.locator("body")).to_have_text(SCRIPT)
    assert "executed" not in (opened.title(), page.title())


def test_an_image_that_no_browser_can_show_is_offered_for_download(
    page: Any, report: Report
) -> None:
    report({"huge.png": black_png(50_000, 50_000, rows=50_000, one_bit=True), "mesh.glb": b"glTF"})
    tile = page.locator(".picture")
    expect(tile).to_have_attribute(
        "data-broken", "There is no thumbnail of this output. It has too many pixels."
    )
    page.get_by_label("More about job 1").click()
    expect(page.get_by_role("link", name="mesh.glb")).to_be_visible()
    page.keyboard.press("Escape")
    tile.click()
    expect(page.locator("#viewer-note")).to_have_text(
        "This browser cannot show the file. Download it to open it in another program."
    )
    expect(page.locator("#viewer-save")).to_be_visible()
