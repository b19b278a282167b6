"""ComfyUI's own editor in a real browser, at the ComfyUI listener over three simulated machines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE_MS
from tests.harness.graphs import text_to_image
from tests.harness.processes import Served
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

pytest.importorskip("comfyui_frontend_package")

_READY = '!!window.app?.rootGraph && !!window.LiteGraph?.registered_node_types["KSampler"]'
_LOAD = "graph => window.app.loadApiJson(graph, 'cat.json')"
#: What its button *Run* does, three times, each with a seed; then it cancels the second prompt.
_RUN = """async (seeds) => {
  const sampler = window.app.rootGraph.nodes.find((node) => node.type === "KSampler");
  const seedWidget = sampler.widgets.find((widget) => widget.name === "seed");
  const ids = [];
  const queue = window.app.api.queuePrompt.bind(window.app.api);
  window.app.api.queuePrompt = async (...given) => {
    const answer = await queue(...given);
    ids.push(answer.prompt_id);
    return answer;
  };
  for (const seed of seeds) {
    seedWidget.value = seed;
    await window.app.queuePrompt(0, 1);
  }
  // A prompt that waits is not interrupted, as at ComfyUI.
  for (let running = []; !running.includes(ids[1]); ) {
    const answer = await fetch("/api/queue");
    running = (await answer.json()).queue_running.map((item) => item[1]);
  }
  await window.app.api.interrupt(ids[1]);
  return ids;
}"""
#: Opens a workflow as *Open workflow* of a job does, and returns the prompt that it would send.
_REOPEN = """async (id) => {
  const job = await (await fetch(`/api/jobs/${id}`)).json();
  await window.app.loadGraphData(job.workflow.extra_data.extra_pnginfo.workflow);
  return (await window.app.graphToPrompt()).output;
}"""
_SELECT = """() => {
  const node = window.app.rootGraph.nodes.find((node) => node.type === "LoadImage");
  window.app.canvas.selectNode(node);
  window.app.extensionManager.command.execute("Comfy.MaskEditor.OpenMaskEditor");
}"""
_IMAGE = """() => {
  const node = window.app.rootGraph.nodes.find((node) => node.type === "LoadImage");
  return node.widgets[0].value;
}"""
_JOBS = "/api/jobs?status=completed,failed,cancelled&limit=200&offset=0"
_JSON = "path => fetch(path).then((answer) => answer.json())"


class Editor:
    """A page with the editor, and the frames of its socket."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.frames, self.previews = page, list[dict[str, Any]](), 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._receive))
        page.goto(url)
        self.wait_ready()

    def _receive(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self.frames.append(json.loads(frame))
        else:
            self.previews += 1

    def wait_ready(self) -> None:
        self.page.wait_for_function(_READY, timeout=2 * PATIENCE_MS)

    def read(self, path: str) -> Any:
        return self.page.evaluate(_JSON, path)

    def waiting(self) -> list[str]:
        queue = self.read("/api/queue")
        return [item[1] for item in queue["queue_running"] + queue["queue_pending"]]

    def states(self) -> dict[str, str]:
        jobs = self.read(_JOBS)
        return {job["id"]: job["status"] for job in jobs["jobs"]}

    def ended(self, prompt_id: str) -> bool:
        """Whether the socket has had the end of a prompt."""
        end = {"node": None, "prompt_id": prompt_id}
        return any(
            frame["type"] == "executing" and end.items() <= frame["data"].items()
            for frame in self.frames
        )


def _group_page(page: Any, url: str, prompt_id: str) -> str:
    """Open the page of the group of a prompt by a search; return its id."""
    page.goto(f"{url}/?text={prompt_id}")
    page.locator(".row a[href^='/groups/']").first.click()
    page.wait_for_url("**/groups/*")
    return str(page.url.rsplit("/", 1)[1].partition("?")[0].partition("#")[0])


def _paint_a_mask(editor: Editor, prompt_id: str) -> None:
    """Use the output of a prompt as an input, with a mask, and render it."""
    page, output = editor.page, editor.read(f"/api/jobs/{prompt_id}")["preview_output"]
    name = f"{output['subfolder']}/{output['filename']} [output]"
    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mask"}}
    page.evaluate(_LOAD, {"1": load, "2": save})
    page.wait_for_function("() => window.app.rootGraph.nodes.some((node) => node.imgs?.length)")
    page.evaluate(_SELECT)
    page.get_by_text("Brush Settings").wait_for()  # Then it is ready.
    page.mouse.move(600, 400)
    page.mouse.down()
    page.mouse.move(700, 450, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Save").first.click()
    page.wait_for_function(f"() => ({_IMAGE})().startsWith('clipspace')")
    page.evaluate("() => window.app.queuePrompt(0, 1)")
    until(lambda: not editor.waiting() and len(editor.states()) == 4, 60.0, editor.states)
    assert set(editor.states().values()) == {"completed", "cancelled"}


@pytest.fixture
def machines() -> Iterator[SimulatorThread]:
    with SimulatorThread(3, seconds=1.0, preview_fps=4.0) as machines:
        yield machines


@pytest.fixture
def served(machines: SimulatorThread, tmp_path: Path) -> Iterator[Served]:
    arguments = ("--port", "0", "--comfyui-port", "0")
    served = Served(tmp_path, machines.urls, arguments=arguments)
    try:
        served.wait_online()
        yield served
    finally:
        served.close()


@pytest.fixture
def address(served: Served) -> str:
    return served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]


def test_the_editor_renders_on_the_farm(
    machines: SimulatorThread, served: Served, address: str, context: Any, page: Any
) -> None:
    for number in range(3):
        machines.fault("stuck", on=number)
    editor = Editor(page, address)
    page.evaluate(_LOAD, text_to_image(seed=1))
    first, second, third = page.evaluate(_RUN, [11, 12, 13])
    # The page is loaded again in the middle.
    page.reload()
    editor.wait_ready()
    for number in range(3):
        machines.clear_faults(on=number)
    until(lambda: not editor.waiting(), 60.0, editor.waiting)
    states = editor.states()
    assert states[second] == "cancelled"
    assert {states[first], states[third]} == {"completed"}
    until(lambda: page.wait_for_timeout(50) or editor.ended(third), 60.0)
    assert editor.previews
    # A job of the history opens again with its values.
    assert page.evaluate(_REOPEN, first)["3"]["inputs"]["seed"] == 11
    _paint_a_mask(editor, first)
    # What it keeps for its user is another one's not.
    stored = "() => window.app.api.storeUserData('workflows/cat.json', {nodes: []})"
    page.evaluate(stored)
    assert editor.read("/api/userdata?dir=workflows") == ["cat.json"]
    other = context.browser.new_context(extra_http_headers={"Comfy-User": "bert"})
    try:
        bert = other.new_page()
        bert.goto(f"{address}/api/queue")
        assert bert.evaluate(_JSON, "/api/queue") == {"queue_running": [], "queue_pending": []}
        assert bert.evaluate(_JSON, _JOBS)["jobs"] == []
        missing = "() => fetch('/api/userdata?dir=workflows').then((answer) => answer.status)"
        assert bert.evaluate(missing) == 404
    finally:
        other.close()
    # From the editor to the page of a group by its menu or the id of a job, and back.
    with context.expect_page() as opened:
        page.evaluate("() => window.app.extensionManager.command.execute('Director.Job')")
    opened.value.wait_for_url(f"{served.url}/groups/jg_*")
    group_id = _group_page(page, served.url, third)
    page.click("#group-menu summary")
    with context.expect_page() as opened:
        page.get_by_text("Open in the editor").click()
    opened.value.wait_for_function(f"() => {_READY} && window.app.rootGraph.nodes.length > 1")
    sent = "() => window.app.graphToPrompt().then((prompt) => prompt.output['3'].inputs.seed)"
    opened.value.wait_for_function(f"() => document.title.includes('{group_id}')")
    assert opened.value.evaluate(sent) == 13
