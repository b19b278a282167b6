"""Takes the screenshots of the guide to the pages and of ComfyUI's editor, over simulated ComfyUIs:
``make pictures``.

Chromium is needed, as for the tests of the pages.
"""

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.desk import Desk, bring_workflow, cards
from tests.harness.processes import Served
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

_MODEL: Final = "sd_xl_base_1.0.safetensors"  #: That of the template.
_FOLDER: Final = Path(__file__).with_name("pictures")
#: Whether every picture in the window has loaded.
_LOADED: Final = """() => [...document.images].every((one) => !one.src || !one.checkVisibility()
    || one.getBoundingClientRect().top > innerHeight || one.naturalWidth)"""
_SWEEP: Final = {
    "mode": "product",
    "axes": [{"input": "3.cfg", "values": [5, 7, 9]}, {"input": "3.steps", "values": [10, 20, 30]}],
}


def _take(page: Any, name: str) -> None:
    page.wait_for_function(_LOADED)
    page.wait_for_timeout(500)  # ends transitions
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.save(_FOLDER / f"{name}.webp", quality=80, method=6)
    print(f"{name}.webp")  # noqa: T201


def _name(group: str) -> dict[str, Any]:
    return {"metadata": {"name": group, "scene": "shot_001"}, "submitter": "ann"}


def _fill(desk: Desk) -> dict[str, str]:
    """Run the groups of the screenshots, and return their ids."""
    for number, backend in enumerate(desk.backend_ids(), 1):
        change = {"name": f"gpu-{number}", "tags": ["24gb"] if number < 3 else ["12gb"]}
        desk.http.patch(f"{desk.url}/api/backends/{backend}", json=change).raise_for_status()
    groups = {
        "sweep": desk.submit_sweep(_SWEEP, **_name("Castle, CFG and steps")),
        "owls": desk.submit_to_pool(8, **_name("Owls at night")),
    }
    for group in groups.values():
        desk.until_ended(group)
    desk.order(0, name="node_error", message="Allocation on device 0 would exceed memory", count=2)
    groups["failed"] = desk.submit(8, **_name("Foxes"))
    desk.until_ended(groups["failed"])
    return groups


def _submissions(page: Any, desk: Desk) -> None:
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.get_by_label("How many?").fill("12")
    page.get_by_label("Your name").fill("ann")
    page.locator("#can-run-said", has_text="All 4").wait_for()
    page.evaluate("() => { document.querySelector('#paste-box').open = false; scrollTo(0, 0); }")
    _take(page, "submit")
    page.get_by_role("button", name="Vary cfg of node 3").click()
    page.keyboard.insert_text("5, 7, 9")
    page.locator("#plan-said", has_text="All 4").wait_for()
    page.locator("#usual").scroll_into_view_if_needed()
    _take(page, "vary")


def _results(page: Any, desk: Desk, groups: dict[str, str]) -> None:
    page.goto(f"{desk.url}/groups/{groups['owls']}")
    page.locator(".picture").first.click()
    page.locator("#viewer-about").click()
    _take(page, "viewer")
    page.goto(f"{desk.url}/groups/{groups['sweep']}")
    _take(page, "grid")
    for index in range(2):
        page.locator(".cell [data-compare]").nth(index).click()
    page.locator("#compare-open").click()
    _take(page, "compare")
    page.goto(f"{desk.url}/groups/{groups['failed']}?show=failed")
    page.get_by_role("button", name="Retry", exact=False).first.click()
    page.locator("dialog[open]").wait_for()
    _take(page, "retry")
    page.goto(f"{desk.url}/gallery")
    for index in range(3):
        page.locator(".tile .pick").nth(index).click()
    _take(page, "gallery")


def _running(page: Any, desk: Desk) -> None:
    page.goto(desk.url)
    group = desk.submit_to_pool(12, **_name("Lighthouse in a storm"))
    desk.submit_to_pool(40, **_name("Lighthouse, alternatives"))
    page.goto(f"{desk.url}/groups/{group}")
    cards(page, "completed").nth(3).wait_for()
    page.locator(".card.s-running .preview:not([hidden])").first.wait_for()
    _take(page, "group")
    page.goto(desk.url)
    page.locator(".row.s-running").first.wait_for()
    page.wait_for_timeout(3_000)  # for live previews
    _take(page, "groups")
    desk.submit_to_pool(6, **_name("Owls, larger") | {"submitter": "ben"})
    page.goto(f"{desk.url}/queue")
    _take(page, "queue")
    desk.http.post(f"{desk.url}/api/backends/{desk.backend_ids()[3]}/pause", json={})
    page.goto(f"{desk.url}/backends")
    page.get_by_text("paused", exact=False).first.wait_for()
    _take(page, "backends")


def _editor(page: Any, folder: Path) -> None:
    """ComfyUI's editor at the listener: a template, ten prompts, and their machines."""
    with SimulatorThread(4, checkpoints=(_MODEL,), seconds=3.0, preview_fps=8.0) as simulators:
        served = Served(folder, simulators.urls, arguments=("--port", "0", "--comfyui-port", "0"))
        try:
            served.wait_online()
            page.goto(served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1])
            page.wait_for_function(
                "() => window.app?.rootGraph && !document.querySelector('dialog')"
            )
            page.wait_for_timeout(3_000)  # The editor restores its tabs.
            page.evaluate(
                "() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')"
            )
            page.get_by_placeholder("Search").first.fill("sdxl")
            page.get_by_text("Text to Image (Simple)").wait_for()
            _take(page, "editor-templates")
            page.get_by_text("Text to Image (Simple)").click()
            page.wait_for_function("() => window.app.rootGraph.nodes.length > 5")
            page.wait_for_timeout(1_000)
            page.evaluate("() => window.app.queuePrompt(0, 10)")
            page.get_by_text(re.compile("[0-9]+ active")).click()
            page.wait_for_timeout(5_000)  # for first results and previews
            _take(page, "editor-queue")
            listed = f"{served.url}/api/outputs"
            until(lambda: len(page.request.get(listed).json()["results"]) == 10, 120)
            page.goto(f"{served.url}/gallery")
            page.locator(".tile").nth(9).wait_for()
            _take(page, "editor-results")
        finally:
            served.close()


def main() -> None:
    """Write every picture of the guide."""
    _FOLDER.mkdir(exist_ok=True)
    settings = {"seconds": 3.0, "preview_fps": 8.0, "lenient": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        SimulatorThread(4, **settings) as simulators,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        desk = Desk(Path(folder), simulators)
        try:
            _editor(
                browser.new_page(viewport={"width": 1280, "height": 800}), Path(folder, "editor")
            )
            groups = _fill(desk)
            _submissions(page, desk)
            _results(page, desk, groups)
            _running(page, desk)
        finally:
            desk.close()
            browser.close()


if __name__ == "__main__":
    main()
