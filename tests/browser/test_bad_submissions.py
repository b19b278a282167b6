"""The form of a new group with something wrong in it: said next to its field, and nothing is lost."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from director.demo.workflow import text_to_image
from tests.browser.desk import Desk, bring_workflow
from tests.harness.graphs import png
from tests.harness.waits import until

STEPS = "label:has([data-error='parameters.3.steps']) input"
#: What a person has typed before the mistake, by the field's selector.
TYPED = {"#name": "Not lost", "#count": "3", "#base": "41", "#timeout": "120", STEPS: "9"}
METADATA = '{"scene": "shot_001"}'


@pytest.fixture(autouse=True)
def nothing_was_submitted(desk: Desk) -> Iterator[None]:
    def newest() -> list[str]:
        rows = desk.http.get(f"{desk.url}/api/job-groups?limit=1").json()["results"]
        return [row["job_group_id"] for row in rows]

    before = newest()
    yield
    assert newest() == before


@pytest.fixture
def form(desk: Desk, page: Any) -> Any:
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.locator("#more > summary").click()
    for name, value in TYPED.items():
        page.locator(name).fill(value)
    page.get_by_label("Strategy").select_option("fibonacci")
    page.get_by_text("Metadata as JSON").first.click()
    page.locator("#metadata").fill(METADATA)
    return page


def still_there(page: Any, but: dict[str, str] | None = None) -> None:
    """Check that all that was typed stands where it was typed."""
    workflow = json.dumps(text_to_image())
    usual = TYPED | {"#strategy": "fibonacci", "#paste": workflow, "#metadata": METADATA}
    for name, value in (usual | (but or {})).items():
        expect(page.locator(name)).to_have_value(value)


def send(page: Any) -> None:
    page.get_by_role("button", name="Submit", exact=True).click()


def test_an_invalid_value_is_reported_next_to_its_field(form: Any) -> None:
    for kind, field, parts, place, message in [
        ["no picture", "#count", "0", "count", "from 1 to 10000"],
        ["too many", "#count", "10001", "count", "from 1 to 10000"],
        ["part of a picture", "#count", "1.5", "count", "from 1 to 10000"],
        ["too long", "#timeout", "3601", "timeout_seconds", "from 30 to 3600"],
        ["no number", "#base", "a lot", "base_seed", "0 to 9007199254740991"],
        ["above all seeds", "#base", "9007199254740992", "base_seed", "9007199254740991"],
        [
            "no number of steps",
            "label:has([data-error='parameters.3.steps']) input",
            "many",
            "parameters.3.steps",
            "Must be a number",
        ],
        [
            "half a step",
            "label:has([data-error='parameters.3.steps']) input",
            "7.5",
            "parameters.3.steps",
            "integer",
        ],
        ["no JSON", "#metadata", "scene: shot_001", "metadata", "Must be a JSON object"],
        ["17 kB", "#metadata", ['{"long": "', "x" * 17000, '"}'], "metadata", "16"],
    ]:
        value = "".join(parts)
        form.locator(field).fill(value)
        send(form)
        error = form.locator(f'[data-error="{place}"]')
        expect(error, kind).to_contain_text(message)
        expect(error, kind).to_be_in_viewport()
        expect(form.locator(".field-error:not(:empty)"), kind).to_have_count(1)
        still_there(form, {field: value})
        form.locator(field).fill((TYPED | {"#metadata": METADATA})[field])
    form.locator("#timeout").press("End")
    form.locator("#timeout").press_sequentially("e")
    send(form)
    expect(form.locator('[data-error="timeout_seconds"]')).to_have_text(
        "Must be a whole number from 30 to 3600."
    )
    expect(form.locator("#timeout")).to_have_attribute("aria-invalid", "true")


def test_no_backend_is_said_so_next_to_them(form: Any) -> None:
    form.get_by_label("of those chosen by tag or name").check()
    send(form)
    expect(form.locator('[data-error="backend_ids"]')).to_contain_text("at least one backend")
    form.get_by_label("On the chosen backends in turn").check()
    for box in form.locator('input[name="backend"]').all():
        box.uncheck()
    send(form)
    expect(form.locator('[data-error="backend_ids"]')).to_contain_text("at least one backend")
    still_there(form)


def test_a_backend_that_is_gone_or_disabled_meanwhile_is_named(desk: Desk, form: Any) -> None:
    rows = desk.http.get(f"{desk.url}/api/backends").json()["backends"]
    first, second = (row["backend_id"] for row in rows[:2])
    form.get_by_label("On the chosen backends in turn").check()
    for box in form.locator('input[name="backend"]').all():
        box.set_checked(box.get_attribute("value") in (first, second))
    row = desk.http.patch(f"{desk.url}/api/backends/{second}", json={"enabled": False})
    assert row.status_code == 200
    checks: list[Any] = []

    def hold(route: Any) -> None:
        checks.append(route)

    form.route("**/api/workflows/check", hold)
    form.locator(f'input[name="backend"][value="{first}"]').evaluate(
        "(input) => { input.value = 'nobody';"
        " input.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    send(form)
    error = form.locator('[data-error="backend_ids"]')
    expect(error).to_contain_text(f"{rows[0]['name']}: Unknown: no backend has this id.")
    expect(error).to_contain_text(f"{rows[1]['name']}: Disabled.")
    # Once for each backend, however many jobs name it.
    assert error.inner_text().count(rows[1]["name"]) == 1
    # The check, which answers later here, does not show the reasons again.
    until(lambda: form.wait_for_timeout(20) or checks)
    with form.expect_event("requestfinished", lambda request: "/check" in request.url):
        for check in checks:
            check.continue_()
    form.evaluate("() => new Promise(requestAnimationFrame)")
    expect(form.locator("#can-run-why").filter(visible=True)).to_have_count(0)
    still_there(form)


def test_a_missing_picture_is_asked_for_at_its_field(form: Any) -> None:
    graph = text_to_image()
    for node, title in (("10", "Load Image"), ("20", "Load the style")):
        loader = {"class_type": "LoadImage", "inputs": {"image": "portrait.png"}}
        graph[node] = loader | {"_meta": {"title": title}}
        saver = {"class_type": "SaveImage", "inputs": {"images": [node, 0], "filename_prefix": "x"}}
        graph[f"{node}1"] = saver
    del graph["9"]
    graph["20"]["inputs"]["image"] = ""
    form.locator("#paste").fill(json.dumps(graph))
    picture = form.locator('[data-error="parameters.10.image"]')
    style = form.locator('[data-error="parameters.20.image"]')
    expect(picture).to_have_text("Choose a picture for Load Image.")
    expect(style).to_have_text("Choose a picture for Load the style.")
    # It is said once, also after Submit, which waits for it.
    expect(form.locator("#can-run")).to_be_hidden()
    send(form)
    expect(picture).to_be_in_viewport()
    expect(form.locator(".field-error:not(:empty)")).to_have_count(2)
    for place in (picture, style):
        chooser = form.locator(".field", has=place).locator("[type=file]")
        content = {"name": "cat.png", "mimeType": "image/png", "buffer": png()}
        chooser.set_input_files(content)
        expect(place).to_be_empty()
    expect(form.locator("#can-run-said")).to_have_text("All 4 backends can run it.")


def test_what_all_backends_lack_is_said_once(form: Any) -> None:
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = "tiny_sd16.safetensors"
    form.locator("#paste").fill(json.dumps(graph))
    sentence = re.compile("node 4 .*Value not in list: ckpt_name")
    said = form.get_by_text(sentence).filter(visible=True)
    expect(said).to_have_count(1)
    send(form)
    expect(form.locator('[data-error="backend_ids"]')).to_have_text(sentence)
    expect(said).to_have_count(1)


#: Those that are no workflow at all.
OTHER_FILES = ("not JSON", "a list", "no node", "another program's picture", "broken picture")
OF_ANOTHER_PROGRAM = png(parameters="a castle\nSteps: 20, Sampler: Euler a, Seed: 7")
#: A file's name and content, and what is said of it.
FILES = {
    "not JSON": ("a.json", b"hello", "This is not JSON"),
    "a list": ("a.json", b"[1, 2]", "no workflow"),
    "no nodes": ("a.json", b"{}", "no nodes"),
    "no node": ("a.json", b'{"<b>3</b>": 1}', "is not a node"),
    "editor format": (
        "a.json",
        b'{"nodes": [{"id": 4, "type": "Mine"}], "links": []}',
        "Node 4: Mine: No backend has",
    ),
    "another program's picture": ("a.png", OF_ANOTHER_PROGRAM, "ComfyUI did not save it"),
    "broken picture": ("a.png", OF_ANOTHER_PROGRAM[:40], "not a PNG that can be read"),
    "50 MB": ("a.json", b" " * 50 * 2**20, "50 MB; the Director takes up to 16 MB"),
    "50 MB picture": ("a.png", b"\x89PNG" + bytes(50 * 2**20 - 4), "50 MB"),
}


def test_a_wrong_file_is_named_and_the_workflow_stays(form: Any, tmp_path: Path) -> None:
    for kind, (name, content, message) in FILES.items():
        (tmp_path / name).write_bytes(content)
        form.locator("#file").set_input_files(tmp_path / name)
        error = form.locator("#workflow-error")
        expect(error, kind).to_contain_text(message)
        expect(error, kind).to_contain_text(f"{name}: ")
        expect(error, kind).to_contain_text("The workflow from before is kept.")
        droppable = "Drop a workflow as JSON, a PNG that ComfyUI made, or a CSV file"
        assert (droppable in error.inner_text()) is (kind in OTHER_FILES), kind
        expect(form.locator("#workflow-said")).to_contain_text("7 nodes")
        form.locator("#file").set_input_files([])
    still_there(form)


def test_a_slip_in_the_pasted_text_costs_nothing_that_was_changed_in_it(form: Any) -> None:
    whole = json.dumps(text_to_image())
    form.locator("#paste").fill(whole[:-1])
    expect(form.locator("#workflow-error")).to_contain_text("This is not JSON")
    send(form)
    expect(form.locator("#workflow-error")).to_contain_text("Choose a workflow first")
    form.locator("#paste").fill(whole)
    expect(form.locator("#workflow-said")).to_contain_text("7 nodes")
    expect(form.locator("#workflow-error")).to_be_empty()
    still_there(form)
    # Another workflow does not take over what was typed into the last.
    other = text_to_image()
    other["3"]["inputs"]["steps"] = 30
    form.locator("#paste").fill(json.dumps(other))
    expect(form.locator(STEPS)).to_have_value("30")


def test_a_director_that_is_away_is_said_so_and_what_was_typed_stays(form: Any, page: Any) -> None:
    page.route("**/api/job-group", lambda route: route.abort())
    send(form)
    expect(form.locator("#other-error")).to_contain_text("The Director does not answer")
    still_there(form)
