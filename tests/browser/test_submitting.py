"""The form of a new group: what it takes, what it sends, and what the browser remembers."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from director.demo.workflow import text_to_image
from tests.browser.desk import SHIFTS, Desk, bring_workflow, hold, submit, wait_loaded
from tests.browser.test_soundness import sound
from tests.harness.graphs import EDITOR_FILE, png

PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_a_picture_made_by_comfyui_brings_its_workflow_and_twelve_go_to_all_in_turn(
    desk: Desk, page: Any
) -> None:
    # A number that JavaScript cannot hold goes through untouched.
    graph = text_to_image()
    graph["5"]["_meta"]["big"] = 2**63 + 1
    page.goto(f"{desk.url}/submit")
    page.locator("#file").set_input_files(
        {"name": "p.png", "mimeType": "image/png", "buffer": png(prompt=json.dumps(graph))}
    )
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes from p.png")
    wait_loaded(page, page.get_by_alt_text("The picture that brought the workflow"), "=== 8")
    expect(page.get_by_label("Prompt text · Positive Prompt")).to_be_focused()
    page.get_by_label("On the chosen backends in turn").check()
    page.get_by_role("button", name="12 jobs").click()
    expect(page.locator("#sends")).to_have_text("12 jobs on 4 backends in turn")
    expect(page.locator(f'[data-share="{desk.backend_ids()[0]}"]')).to_have_text("× 3")
    group = submit(page)
    status = desk.status(group)
    ids = [child["backend_id"] for child in status["child_jobs"]]
    assert {ids.count(one) for one in desk.backend_ids()} == {3}
    stored = desk.http.get(f"{desk.url}/api/job-groups/{group}/workflow").json()
    assert stored == graph


def test_form_starts_with_the_recent_workflows(desk: Desk, page: Any) -> None:
    for name in ("Owl", "Fox <b>"):
        desk.until_ended(desk.submit(1, name=name))
    graph = text_to_image()
    graph["3"]["inputs"]["steps"] = 9
    desk.until_ended(desk.submit(1, name="Hare", workflow_json=graph))
    page.goto(f"{desk.url}/submit")
    recent = page.get_by_role("region", name="Recent workflows")
    links = recent.get_by_role("link")
    expect(links.nth(0)).to_contain_text("Hare")
    expect(links.nth(1)).to_contain_text("Fox <b>")
    expect(recent).not_to_contain_text("Owl")
    wait_loaded(page, links.nth(0).locator("img"), "> 0")
    sound(page)
    links.nth(0).click()
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes from Hare.")
    expect(page.get_by_label("steps · KSampler")).to_have_value("9")
    expect(recent).to_have_count(0)
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    expect(recent).to_be_hidden()


def test_form_shows_which_backends_can_run_the_workflow_and_the_choices_they_have(
    desk: Desk, page: Any
) -> None:
    page.goto(f"{desk.url}/submit")
    said, why = page.locator("#can-run-said"), page.locator("#can-run-why")
    expect(said).to_be_hidden()
    held = hold(page, "**/api/workflows/check", times=1)
    with page.expect_request("**/api/workflows/check"):
        bring_workflow(page)
    expect(said).to_have_text("Checking which backends can run it …")
    # A press during which Submit moves away would have no effect.
    place = page.locator("#send").bounding_box()
    held[0].continue_()
    expect(said).to_have_text("All 4 backends can run it.")
    assert page.locator("#send").bounding_box() == place
    expect(why).to_be_empty()
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = "tiny_sd16.safetensors"
    page.locator("#paste").fill(json.dumps(graph))
    expect(said).to_have_text("No backend can run it.")
    # A line for the backends that have the same reason.
    reason = r"^(\S+, ){3}\S+: node 4 \(CheckpointLoaderSimple\): Value not in list: ckpt_name: 'tiny_sd16.safetensors' "
    expect(why.locator("li")).to_have_text(
        re.compile(reason + r"\(nearest: tiny_sd15.safetensors, .*\)$")
    )
    # By the names that the other pages show.
    for row in desk.http.get(f"{desk.url}/api/backends").json()["backends"]:
        expect(why).to_contain_text(row["name"])
    sound(page)
    file = page.get_by_role("combobox", name="ckpt_name ·")
    expect(file.locator(":checked")).to_have_text("tiny_sd16.safetensors · no backend lists it")
    file.select_option("tiny_sd15.safetensors")
    expect(said).to_have_text("All 4 backends can run it.")
    # A long list is searched.
    sampler = page.get_by_role("combobox", name="sampler_name ·")
    sampler.press("ArrowDown")
    options = page.get_by_role("listbox", name="Choices").get_by_role("option")
    expect(options.and_(page.locator("[aria-selected=true]"))).to_have_text("euler")
    sampler.press("Control+A")
    sampler.press_sequentially("heun 2m")
    expect(options).to_have_text(["dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"])
    for key in ("ArrowDown", "Enter"):
        sampler.press(key)
    expect(sampler).to_have_value("dpmpp_2m_sde_heun")
    summary = desk.status(submit(page))["summary"]
    assert (summary["sampler_name"], summary["model"]) == ("dpmpp_2m_sde_heun", "tiny_sd15")


def test_changed_inputs_go_along_as_parameters_and_seeds_are_shown(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/submit")
    page.locator("#file").set_input_files(EDITOR_FILE)
    said = f"7 nodes from {EDITOR_FILE.name}. Converted from the editor's format."
    expect(page.locator("#workflow-said")).to_have_text(said)
    page.get_by_label("steps · KSampler").fill("7")
    page.get_by_label("Strategy").select_option("fibonacci")
    page.locator("#count").fill("4")
    page.get_by_label("Base seed").fill("42")
    expect(page.locator("#seeds")).to_have_text("42, 1042, 2042, 4042")
    page.get_by_text("The same as a curl command").click()
    expect(page.locator("#curl")).to_contain_text('"3.steps":7')
    # As it was drawn, for the pictures.
    expect(page.locator("#curl")).to_contain_text('"type": "PrimitiveNode"')
    status = desk.status(submit(page))
    assert [child["seed"] for child in status["child_jobs"]] == [42, 1042, 2042, 4042]
    page.get_by_role("link", name="New group with changes").click()
    expect(page.get_by_label("steps · KSampler")).to_have_value("7")
    expect(page.locator("#count")).to_have_value("4")


def test_your_name_is_asked_once_in_a_browser_and_groups_are_found_by_it(
    desk: Desk, page: Any
) -> None:
    name = "Ann <b>O'Hara</b>"
    page.goto(f"{desk.url}/submit")
    page.get_by_label("Your name").fill(f"  {name} ")
    bring_workflow(page)
    first = submit(page)
    assert desk.status(first)["submitter"] == name
    page.goto(f"{desk.url}/submit")
    expect(page.get_by_label("Your name")).to_have_value(name)
    second = desk.submit(1)
    page.goto(desk.url)
    expect(page.locator(f"#{second}")).to_be_visible()
    page.get_by_text("More filters").click()
    page.get_by_label("Submitter").select_option(name)
    page.wait_for_url("**submitter=Ann*")
    expect(page.locator(f"#{first}")).to_contain_text(name)
    expect(page.locator(f"#{second}")).to_have_count(0)


def open_form(desk: Desk, page: Any) -> None:
    """Open the form with a workflow, for the chosen backends in turn."""
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.locator("#more > summary").click()
    page.get_by_label("On the chosen backends in turn").check()


def policy(desk: Desk, group: str) -> tuple[int, bool | str]:
    status = desk.status(group)
    return status["max_attempts"], status["retry_elsewhere"]


def test_the_form_asks_once_in_a_browser_what_is_done_when_a_picture_fails(
    desk: Desk, page: Any
) -> None:
    open_form(desk, page)
    fails, tries = page.get_by_label("When a job fails"), page.get_by_label("Attempts at most")
    # As the API does where nothing is said.
    expect(fails).to_have_value("no")
    expect(tries).to_be_hidden()
    assert policy(desk, submit(page)) == (1, False)
    open_form(desk, page)
    fails.select_option("Retry on any backend")
    tries.fill("0")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator('[data-error="max_attempts"]')).to_have_text(
        "Must be a whole number from 1 to 10."
    )
    tries.fill("4")
    group = submit(page)
    assert policy(desk, group) == (4, "any")
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text("up to 4 attempts, also on any other backend")
    page.goto(f"{desk.url}/submit")
    page.get_by_label("On the chosen backends in turn").check()
    expect(fails).to_have_value("any")
    expect(tries).to_have_value("4")


def test_a_repeated_group_brings_its_own_and_not_what_the_browser_remembers(
    desk: Desk, page: Any
) -> None:
    fields: dict[str, Any] = {
        "max_attempts": 2,
        "retry_elsewhere": "group",
        "retry_on": ["out_of_memory"],
        "partial_outputs": "fail",
        "stop_when": {"failed": 2},
        "stall_seconds": 7200,
        "retention_days": 30,
        "priority": 70,
        "name": "Hero",
        "metadata": {"scene": "shot_010", "panel": 7},
        "submitter": "Ann",
    }
    group = desk.submit(2, **fields)
    page.goto(f"{desk.url}/submit")
    page.evaluate("localStorage.setItem('director.on-failure', 'any 7')")
    page.evaluate("localStorage.setItem('director.submitter', 'Ben')")
    page.goto(f"{desk.url}/submit?from={group}")
    expect(page.get_by_label("When a job fails")).to_have_value("group")
    expect(page.get_by_label("Attempts at most")).to_have_value("2")
    # Each person submits under the own name.
    expect(page.get_by_label("Your name")).to_have_value("Ben")
    expect(page.locator("#retry-on-said")).to_have_text(": 1 chosen")
    expect(page.get_by_label("When ComfyUI refuses some outputs")).to_have_value("fail")
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    again = submit(page)
    carried = (*fields, "timeout_seconds")
    before, after = desk.status(group), desk.status(again)
    assert (after["timeout_seconds"], after["stall_seconds"], after["retention_days"]) == (
        None,
        7200,
        30,
    )
    expected = {name: before[name] for name in carried} | {"submitter": "Ben"}
    assert {name: after[name] for name in carried} == expected
    # What the group brought along is not what this person says the next time.
    page.goto(f"{desk.url}/submit")
    expect(page.get_by_label("Your name")).to_have_value("Ben")
    page.get_by_label("On the chosen backends in turn").check()
    expect(page.get_by_label("When a job fails")).to_have_value("any")
    expect(page.get_by_label("Attempts at most")).to_have_value("7")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_the_form_gets_the_values_of_a_group(
    desk: Desk, page: Any, width: int
) -> None:
    fields = {"timeout_seconds": 60, "metadata": {"scene": "shot_001"}, "parameters": {"steps": 4}}
    group = desk.submit(2, **fields)
    page.set_viewport_size({"width": width, "height": 844})
    page.add_init_script(SHIFTS)
    held = hold(page, "**/workflow")
    page.goto(f"{desk.url}/submit?from={group}")
    page.wait_for_function("document.querySelector('#count').value === '2'")
    expect(page.locator("#count")).to_be_hidden()
    page.evaluate(PAINTED)
    held[0].continue_()
    expect(page.locator("#sends")).to_contain_text("2 jobs")
    page.evaluate(PAINTED)
    assert page.evaluate("window.shifted || 0") < 0.01, page.evaluate("moves.join('\\n')")


def test_after_which_failures_it_is_tried_again_is_chosen_by_keyboard(
    desk: Desk, page: Any
) -> None:
    open_form(desk, page)
    box = page.locator("#retry-on-box")
    # Nothing to choose where it is not tried again.
    expect(box).to_be_hidden()
    page.get_by_label("When a job fails").select_option("Retry on any chosen backend")
    box.locator("summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("name", "retry_on")
    expect(focused).to_have_attribute("value", "node_or_model_missing")
    page.keyboard.press("Space")
    page.get_by_label("Out of memory").check()
    expect(page.locator("#retry-on-said")).to_have_text(": 2 chosen")
    sound(page)
    group = submit(page)
    assert desk.status(group)["retry_on"] == ["node_or_model_missing", "out_of_memory"]
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text(
        "up to 3 attempts, also on the other backends of the group, only after: node or model "
        "missing, out of memory"
    )
    open_form(desk, page)
    # A class that this Director does not know, as after an update under an open page.
    box.evaluate("box => { box.open = true; box.querySelector('input').value = 'fire'; }")
    box.locator("input").first.check()
    page.get_by_role("button", name="Submit", exact=True).click()
    error = page.locator('[data-error="retry_on"]')
    expect(error).to_contain_text("Is no failure class; use some of")
    expect(error).to_be_in_viewport()


def test_submission_to_a_busy_director_is_sent_again_with_its_key(desk: Desk, page: Any) -> None:
    keys: list[str] = []

    def answer(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 2:
            route.continue_()
            return
        body = json.dumps({"detail": "Too busy.", "code": "overloaded"})
        route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)

    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.route("**/api/job-group", answer)
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator("#toast")).to_have_text(
        "The Director is too busy. The request is sent again in 1 s."
    )
    page.wait_for_url("**/groups/jg_*")
    assert (len(keys), len(set(keys))) == (3, 1)
