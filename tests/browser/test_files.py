"""Input files: uploaded on the form of a new group, shown in its copies, listed and deleted."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.desk import Desk, desk_of, submit, wait_loaded
from tests.browser.test_soundness import sound
from tests.harness.graphs import png
from tests.harness.simulator_thread import SimulatorThread

LIMIT = 2**20
GRAPH = {
    "1": {
        "class_type": "LoadImage",
        "inputs": {"image": "cat.png", "upload": "image"},
        "_meta": {"title": "Cat"},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
PICTURE = {"name": "cat <b>.png", "mimeType": "image/png", "buffer": png(a="cat")}
DROP = Path(__file__).with_name("drop.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def simulators() -> Iterator[SimulatorThread]:
    with SimulatorThread(2, seconds=0.3) as running:
        yield running


desk = desk_of(DIRECTOR_MAX_ASSET_BYTES=str(LIMIT))


@pytest.fixture
def form(desk: Desk, page: Any) -> Any:
    page.goto(f"{desk.url}/submit")
    page.get_by_text("Or paste it as JSON").click()
    page.locator("#paste").fill(json.dumps(GRAPH))
    page.locator("#workflow-said", has_text="2 nodes").wait_for()
    return page


def assets(desk: Desk) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = desk.http.get(f"{desk.url}/api/assets").json()["results"]
    return rows


def test_chosen_file_reaches_the_backend_of_the_job_and_the_copy_of_the_group(
    desk: Desk, form: Any, simulators: SimulatorThread
) -> None:
    field = form.get_by_role("group", name="image · Cat")
    expect(field.get_by_role("textbox")).to_have_value("cat.png")
    lack = form.locator('[data-error="parameters.1.image"]')
    expect(lack).to_have_text("Choose a picture for Cat.")
    field.locator("[type=file]").set_input_files(PICTURE)
    expect(field).to_contain_text("cat <b>.png, ")
    expect(field.get_by_role("status")).to_contain_text("Uploaded.")
    wait_loaded(form, field.locator("img"), "=== 8")
    expect(lack).to_be_empty()
    expect(form.locator("#can-run-said")).to_have_text("All 2 backends can run it.")
    sound(form)
    group = submit(form)
    assert desk.until_ended(group)["status"] == "completed"
    (asset,) = assets(desk)
    name = f"{asset['hash'].removeprefix('blake3:')}.png"
    files = [Path(one.state.folders.of("input"), "director", name) for one in simulators.simulators]
    assert any(one.is_file() and one.read_bytes() == PICTURE["buffer"] for one in files)
    form.get_by_role("link", name="New group with changes").click()
    expect(field).to_contain_text("cat <b>.png, ")
    wait_loaded(form, field.locator("img"), "=== 8")
    field.get_by_role("button", name="Remove").click()
    expect(field.get_by_role("textbox")).to_have_value("cat.png")
    form.goto(f"{desk.url}/assets")
    row = form.get_by_role("row").filter(has_text="cat <b>.png")
    expect(row).to_contain_text("image/png")
    sound(form)
    row.get_by_role("button", name="Delete …").click()
    form.get_by_role("button", name="Delete the file").click()
    expect(form.locator("#toast")).to_have_text("cat <b>.png is deleted.")
    expect(row).to_have_count(0)
    assert assets(desk) == []
    form.goto(f"{desk.url}/submit?from={group}")
    expect(field.get_by_role("status")).to_have_text("This file was deleted. Choose it again.")
    form.get_by_role("button", name="Submit", exact=True).click()
    expect(form.locator('[data-error="parameters.1.image"]')).to_have_text(
        "This file was deleted. Choose it again."
    )


def test_dropped_file_is_uploaded_again_after_the_connection_was_lost(
    desk: Desk, form: Any, context: Any
) -> None:
    field = form.get_by_role("group", name="image · Cat")
    context.set_offline(True)
    content = base64.b64encode(png(a="dog")).decode()
    field.locator(".file").evaluate(DROP, ["dog.png", content])
    status = field.get_by_role("status")
    expect(status).to_contain_text(
        "The file was not uploaded. The connection to the Director was lost"
    )
    form.get_by_role("button", name="Submit", exact=True).click()
    expect(form.locator('[data-error="parameters.1.image"]')).to_contain_text(
        "The file was not uploaded."
    )
    context.set_offline(False)
    field.get_by_role("button", name="Try again").click()
    expect(status).to_contain_text("Uploaded.")
    expect(form.locator("#workflow-said")).to_have_text(
        "2 nodes."
    )  # the dropped file was no workflow
    # A workflow that has the same input keeps the file.
    form.locator("#paste").fill(json.dumps(GRAPH | {"3": GRAPH["2"]}))
    form.locator("#workflow-said", has_text="3 nodes").wait_for()
    expect(field).to_contain_text("dog.png, ")
    group = submit(form)
    assert desk.until_ended(group)["status"] == "completed"


def test_several_files_are_values_of_a_sweep(desk: Desk, form: Any) -> None:
    form.get_by_role("button", name="Vary image of node 1").click()
    values = form.get_by_role("group", name="Values of image · Cat")
    files = [{**PICTURE, "name": f"{name}.png", "buffer": png(a=name)} for name in "abcde"]
    values.locator("[type=file]").set_input_files(files)
    expect(values.get_by_text("Uploaded.")).to_have_count(5)
    values.get_by_role("button", name="Remove").first.click()
    expect(form.locator("#sweep-said")).to_have_text("image: 5 jobs")
    values.get_by_role("textbox").first.fill("")
    expect(form.locator("#sweep-said")).to_have_text("image: 4 jobs")
    sound(form)
    group = submit(form)
    assert desk.until_ended(group)["status"] == "completed"
    form.get_by_role("link", name="New group with changes").click()
    expect(values).to_contain_text("e.png, ")
    expect(form.locator("#sweep-said")).to_have_text("image: 4 jobs")


def test_file_that_is_too_large_is_not_sent(desk: Desk, form: Any) -> None:
    field = form.get_by_role("group", name="image · Cat")
    large = {**PICTURE, "buffer": PICTURE["buffer"] + bytes(LIMIT)}
    before = assets(desk)
    field.locator("[type=file]").set_input_files(large)
    expect(field.get_by_role("status")).to_have_text(
        "The file is too large: the Director takes up to 1.0 MB."
    )
    expect(field.get_by_role("button", name="Try again")).to_be_hidden()
    sound(form)
    field.locator("[type=file]").set_input_files(PICTURE)
    expect(field.get_by_role("status")).to_contain_text("Uploaded.")
    assert len(assets(desk)) == len(before) + 1


def test_file_that_a_running_group_needs_is_not_deleted(desk: Desk, form: Any) -> None:
    for index in range(2):
        desk.order(index, name="slow_http", route="/view", method="HEAD", count=0, seconds=120.0)
    field = form.get_by_role("group", name="image · Cat")
    field.locator("[type=file]").set_input_files(
        {**PICTURE, "name": "in use.png", "buffer": png(a="in use")}
    )
    expect(field.get_by_role("status")).to_contain_text("Uploaded.")
    group = submit(form)
    form.goto(f"{desk.url}/assets")
    row = form.get_by_role("row").filter(has_text="in use.png")
    row.get_by_role("button", name="Delete …").click()
    form.get_by_role("button", name="Delete the file").click()
    expect(form.locator("#toast")).to_contain_text(
        f"The group {group} needs the file and has not ended."
    )
    expect(row).to_be_visible()


def test_picture_that_is_dropped_on_the_groups_opens_its_job(desk: Desk, page: Any) -> None:
    group = desk.submit(2)
    job = desk.until_ended(group)["child_jobs"][1]["job_id"]
    picture = desk.http.get(f"{desk.url}/api/job-groups/{group}/jobs/{job}/outputs/0").content
    page.goto(desk.url)
    page.locator("main").evaluate(DROP, ["strange.png", base64.b64encode(png()).decode()])
    expect(page.locator("#toast")).to_contain_text("The PNG has no mark of a job")
    page.locator("main").evaluate(DROP, ["picture.png", base64.b64encode(picture).decode()])
    page.wait_for_url(f"**/groups/{group}?job={job}#{job}")
    page.locator(f"#{job}").get_by_label("More about job 2").click()
    page.locator(f"#{job}").get_by_role("link", name="Provenance").click()
    assert json.loads(page.locator("body").inner_text())["job_id"] == job
