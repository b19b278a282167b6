"""The sweep editor of the submit page, by keyboard alone."""

import itertools
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.desk import Desk, bring_workflow, submit
from tests.browser.test_keyboard import button, tab_to
from tests.browser.test_soundness import sound
from tests.harness.waits import until

PROMPTS = ["a red fox", "an owl,\nat night"]


@pytest.fixture
def form(desk: Desk, page: Any) -> Any:
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    return page


def vary(page: Any, name: str, values: str) -> None:
    """Vary an input. Its field gets the focus, with the present value selected."""
    button(page, f"Vary {name}").focus()
    page.keyboard.press("Enter")
    page.keyboard.insert_text(values)


def test_sweep_is_edited_planned_submitted_and_repeated(desk: Desk, form: Any) -> None:
    tab_to(form, button(form, "Vary steps of node 3"))
    form.keyboard.press("Enter")
    form.keyboard.type("5..7")
    vary(form, "text of node 6", 'a red fox\n\n"an owl,\\nat night"')
    said, plan = form.locator("#sweep-said"), form.locator("#plan-said")
    expect(said).to_have_text("steps × text: 3 × 2 = 6 jobs")
    tab_to(form, form.get_by_label("Seeds per combination"))
    form.keyboard.type("2")
    expect(said).to_have_text("steps × text × seeds: 3 × 2 × 2 = 12 jobs")
    expect(plan).to_contain_text("All 4 backends can run all jobs.")
    expect(form.locator("#sends")).to_contain_text("12 jobs on any of 4 backends")
    expect(form.locator("#count")).to_be_disabled()
    expect(form.get_by_label("On the chosen backends in turn")).to_be_disabled()
    sound(form)
    form.get_by_text("The same as a curl command").click()
    expect(form.locator("#curl")).to_contain_text('"axes":[{"input":"3.steps","values":[5,6,7]}')
    group = submit(form)
    jobs = desk.status(group)["child_jobs"]
    assert [job["variation"] for job in jobs] == [
        {"3.steps": steps, "6.text": text}
        for steps, text, _ in itertools.product((5, 6, 7), PROMPTS, range(2))
    ]
    assert [job["seed"] for job in jobs] == [jobs[0]["seed"], jobs[1]["seed"]] * 6
    form.get_by_role("link", name="New group with changes").click()
    expect(said).to_have_text("steps × text × seeds: 3 × 2 × 2 = 12 jobs")
    button(form, "Vary text of node 6").press("Enter")
    expect(said).to_have_text("steps × seeds: 3 × 2 = 6 jobs")
    # One job of the sweep brings its own inputs.
    form.goto(f"{desk.url}/submit?from={group}&job={jobs[-1]['job_id']}")
    expect(form.get_by_label("steps · KSampler")).to_have_value("7")
    expect(form.get_by_label("text · ").first).to_have_value(PROMPTS[1])
    expect(form.get_by_label("Base seed")).to_have_value(str(jobs[-1]["seed"]))
    expect(said).to_be_hidden()


def test_choices_are_ticked(form: Any) -> None:
    vary(form, "sampler_name of node 3", "euler\nmine")
    form.get_by_label("Search the choices of sampler_name").fill("heun 2m")
    choices = form.get_by_role("group", name="Choices of sampler_name").get_by_role("checkbox")
    expect(choices).to_have_count(2)
    choices.first.press("Space")
    values = form.get_by_label("Values of sampler_name")
    expect(values).to_have_value("euler\nmine\ndpmpp_2m_sde_heun")
    expect(form.locator("#sweep-said")).to_have_text("sampler_name: 3 jobs")
    sound(form)
    values.fill("euler")
    expect(choices.first).not_to_be_checked()


def test_csv_file_is_a_list_of_jobs_with_errors_by_line(desk: Desk, form: Any) -> None:
    def bring(text: str, encoding: str = "utf-8") -> None:
        form.locator("#file").set_input_files(
            {"name": "shots.csv", "mimeType": "text/csv", "buffer": text.encode(encoding)}
        )

    rows = (
        '\ufeff3.cfg;6.text;seed;meta:shot\r\n5;"an owl;\nat ""night""";7;s1\r\n;a red fox;8;\r\n'
    )
    wrong, workflow = form.locator('[data-error="sweep"]'), form.locator("#workflow-error")
    for text, encoding, sentence in (
        ("cfg,text\n5", "utf-8", "shots.csv: Line 2 has 1 value; the first line has 2."),
        ("text\nä", "latin-1", "shots.csv: This is no text in UTF-8."),
        ("cfg,cfg\n1,2", "utf-8", 'shots.csv: Line 1: the column "cfg" is there twice.'),
    ):
        bring(text, encoding)
        expect(workflow).to_contain_text(sentence)
    bring(rows)
    expect(form.locator("#sweep-said")).to_contain_text("2 jobs from shots.csv")
    bring("text")
    expect(workflow).to_contain_text("The file needs a line of inputs, and a line for each job.")
    # The jobs of the file before are not those of this one.
    expect(form.locator("#sweep")).to_be_hidden()
    bring(f"{rows}x;;;")
    expect(wrong).to_have_text("Line 5, 3.cfg: must be a number.")
    bring('6.text,nothing\n"a\nb",1\nc,2')
    expect(wrong).to_contain_text("Line 2, nothing: It matches no input of the workflow.")
    bring(rows)
    expect(form.locator("#plan-said")).to_contain_text("All 4 backends can run all jobs.")
    expect(wrong).to_be_empty()
    sound(form)
    group = submit(form)
    expected = [
        ({"3.cfg": 5, "6.text": 'an owl;\nat "night"'}, 7, {"shot": "s1"}),
        ({"6.text": "a red fox"}, 8, None),
    ]
    shown = [
        (one["variation"], one["seed"], one["metadata"]) for one in desk.status(group)["child_jobs"]
    ]
    assert shown == expected
    form.get_by_role("link", name="New group with changes").click()
    expect(form.locator("#sweep-said")).to_have_text(f"2 jobs from {group}: 3.cfg, 6.text")
    button(form, "Remove the list").press("Enter")
    expect(form.locator("#count")).to_have_value("2")
    expect(form.locator("#sweep")).to_be_hidden()


def test_error_of_a_plan_stays_when_a_check_answers_later(desk: Desk, page: Any) -> None:
    checks: list[Any] = []

    def hold(route: Any) -> None:
        checks.append(route)

    page.route("**/api/workflows/check", hold)
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    vary(page, "steps of node 3", "6.5")
    error = page.locator(".axis .field-error")
    expect(error).to_contain_text("Value 1 (6.5)")
    until(lambda: page.wait_for_timeout(20) or checks)
    for check in checks:
        check.continue_()
    expect(page.locator("#can-run-said")).to_have_text("All 4 backends can run it.")
    expect(error).to_contain_text("Value 1 (6.5)")


def test_wrong_values_and_limits_are_shown_at_their_field(form: Any) -> None:
    vary(form, "steps of node 3", "1..7")
    vary(form, "cfg of node 3", "0.5..20:0.5")
    form.get_by_label("Seeds per combination").fill("50")
    wrong, steps = form.locator('[data-error="sweep"]'), form.get_by_label("Values of steps")
    expect(wrong).to_have_text("7 × 40 × 50 = 14,000 jobs; at most 10,000.")
    sound(form)
    form.get_by_label("In pairs").check()
    expect(wrong).to_have_text("In pairs, all inputs need equally many values; they have 7, 40.")
    error = form.locator(".axis", has=steps).locator(".field-error")
    for values, sentence in (
        ("5, x", '"x" is no number.'),
        ("1..5:0", "The step of a range must be above 0."),
        (",", "Enter at least one value."),
        # The Director checks the values against the workflow.
        (f"6.5{', 6' * 39}", "Value 1 (6.5): Must be an integer, as it is in node 3."),
    ):
        steps.fill(values)
        expect(error).to_contain_text(sentence)
        expect(steps).to_have_attribute("aria-invalid", "true")
    button(form, "Submit").press("Enter")
    expect(error).to_be_in_viewport()
    expect(error).to_contain_text("Value 1 (6.5)")
