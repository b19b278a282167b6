"""ComfyUI's own editor in Chromium, without a server: it exports workflows in the API format.

``python -m tests.editor.frontend`` exports all templates and writes ``exports.json``; it takes
about ten minutes.
"""

import contextlib
import json
import mimetypes
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.editor.templates import DESCRIBED, EXCLUDED, EXPORTS, digest, templates

Export = Callable[[dict[str, Any]], dict[str, Any]]
_ROOT: Final = files("comfyui_frontend_package").joinpath("static")
_ANSWERS: Final[dict[str, Any]] = {
    "object_info": DESCRIBED,
    "settings": {"Comfy.TutorialCompleted": True},
    "users": {"storage": "server", "migrated": True},
    "system_stats": {
        "system": {"os": "linux", "comfyui_version": "0.33.0", "argv": []},
        "devices": [],
    },
    "queue": {"queue_running": [], "queue_pending": []},
    "jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 1, "total": 0, "has_more": False}},
    **{
        name: []
        for name in (
            "extensions",
            "embeddings",
            "userdata",
            "v2/userdata",
            "models",
            "experiment/models",
        )
    },
    **{
        name: {}
        for name in (
            "features",
            "i18n",
            "workflow_templates",
            "node_replacements",
            "global_subgraphs",
            "history",
        )
    },
}
_READY: Final = '!!window.app?.rootGraph && !!window.LiteGraph?.registered_node_types["KSampler"]'
# Some inputs get their types with the next frame.
_EXPORT: Final = """async (workflow) => {
  await window.app.loadGraphData(workflow, true, false, null, { skipAssetScans: true, deferWarnings: true });
  for (let frame = 0; frame < 2; frame++) await new Promise((done) => requestAnimationFrame(done));
  return JSON.stringify((await window.app.graphToPrompt()).output);
}"""


def _answer(route: Route) -> None:
    path = urlsplit(route.request.url).path.removeprefix("/")
    if path.startswith("api/"):
        answer = _ANSWERS.get(path.removeprefix("api/"))
        route.fulfill(status=404) if answer is None else route.fulfill(json=answer)
        return
    file = _ROOT.joinpath(path or "index.html")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    route.fulfill(body=file.read_bytes(), content_type=kind) if file.is_file() else route.fulfill(
        status=404
    )


def _opened(page: Page) -> Export:
    page.route("**/*", _answer)
    page.route_web_socket("**/ws*", lambda _: None)
    page.goto("http://comfyui.test/")
    page.wait_for_function(_READY, timeout=120_000)
    page.wait_for_timeout(1_000)
    return lambda workflow: dict(json.loads(page.evaluate(_EXPORT, workflow)))


@contextlib.contextmanager
def editor() -> Iterator[Export]:
    """Open the editor, and give what exports a workflow."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield _opened(browser.new_page())
        browser.close()


def main() -> None:
    """Write the hash of the editor's export of each template that is not excluded."""
    found, wanted = {}, [one for one in templates() if one[0] not in EXCLUDED]
    # A page that has opened many workflows is slow.
    for start in range(0, len(wanted), 40):
        with editor() as export:
            found |= {
                name: digest(export(workflow)) for name, workflow in wanted[start : start + 40]
            }
    EXPORTS.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
