"""Jobs that any free backend takes: submitted, watched, moved and retried from the pages."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.desk import Desk, bring_workflow, desk_of, submit
from tests.browser.test_soundness import sound
from tests.harness.simulator_thread import SimulatorThread

CHOSEN = "of those chosen by tag or name"


@pytest.fixture(scope="module")
def simulators() -> Iterator[SimulatorThread]:
    with SimulatorThread(2, seconds=0.2, preview_fps=4.0, lenient=True) as running:
        yield running


desk = desk_of()


@pytest.fixture(autouse=True)
def _free_again(desk: Desk) -> Iterator[None]:
    yield
    for backend in desk.backend_ids():
        row = {"tags": []}
        assert desk.http.patch(f"{desk.url}/api/backends/{backend}", json=row).is_success


def name(backend_id: str) -> str:
    """Return the name of a backend that was registered by its address."""
    return backend_id.replace("_", ":")


def pause(desk: Desk) -> None:
    for backend in desk.backend_ids():
        assert desk.http.post(f"{desk.url}/api/backends/{backend}/pause").is_success


def test_twelve_jobs_are_completed_by_whichever_backend_is_free(desk: Desk, page: Any) -> None:
    fast, slow = desk.backend_ids()
    desk.stick()
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.get_by_role("button", name="12 jobs").click()
    expect(page.locator("#sends")).to_have_text("12 jobs on any of 2 backends")
    expect(page.get_by_label("When a job fails")).to_have_value("group")
    page.get_by_text("The same as a curl command").click()
    expect(page.locator("#curl")).to_contain_text('"backend_ids":["*"],"count":12')
    sound(page)
    group = submit(page)
    expect(page.locator(".card.s-queued .machine").first).to_have_text("any backend")
    running = page.locator(".card.s-running .machine")
    expect(running.filter(has_text=name(fast)).first).to_be_visible()
    expect(running.filter(has_text=name(slow)).first).to_be_visible()
    desk.withdraw(of=0)
    desk.until(group, lambda status: status["completed_count"] > 6)
    desk.withdraw()
    ended = desk.until_ended(group)
    expect(page.locator(".facts")).to_contain_text("12/12 completed")
    made = Counter(child["backend_id"] for child in ended["child_jobs"])
    assert made[fast] > made[slow] > 0
    line = f"{made[fast]} × {name(fast)}, {made[slow]} × {name(slow)}"
    expect(page.locator("#head")).to_contain_text(line)
    sound(page)
    expect(page.locator(".machine").filter(has_text="any backend")).to_have_count(0)
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text("any backend")
    page.get_by_role("link", name="New group with changes").click()
    expect(page.locator("#count")).to_have_value("12")
    expect(page.get_by_label("On any backend that is free", exact=True)).to_be_checked()
    expect(page.locator("#sends")).to_have_text("12 jobs on any of 2 backends")
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    assert submit(page) != group


def test_candidates_are_chosen_by_tag_or_name_and_repeated(desk: Desk, page: Any) -> None:
    first, second = desk.backend_ids()
    desk.http.patch(f"{desk.url}/api/backends/{second}", json={"tags": ["big one"]})
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.locator("#count").fill("3")
    page.get_by_label(CHOSEN).check()
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator('[data-error="backend_ids"]')).to_have_text(
        "Choose at least one backend or tag."
    )
    page.get_by_label("Tag big one").check()
    expect(page.locator("#sends")).to_have_text("3 jobs on 1 backend")
    sound(page)
    group = submit(page)
    assert {child["backend_id"] for child in desk.until_ended(group)["child_jobs"]} == {second}
    page.goto(f"{desk.url}/submit?from={group}")
    expect(page.locator("#workflow-said")).to_contain_text("7 nodes")
    expect(page.get_by_label(CHOSEN)).to_be_checked()
    expect(page.get_by_label("Tag big one")).to_be_checked()
    page.locator(f'input[name="backend"][value="{first}"]').check()
    expect(page.locator("#sends")).to_have_text("3 jobs on any of 2 backends")
    # Each kind of placement keeps its retry policy.
    page.get_by_label("On the chosen backends in turn").check()
    expect(page.get_by_label("When a job fails")).to_have_value("no")
    expect(page.locator("#sends")).to_have_text("3 jobs on 1 backend in turn")
    page.get_by_label(CHOSEN).check()
    expect(page.get_by_label("When a job fails")).to_have_value("group")


def test_a_job_that_waits_is_bound_to_the_backend_that_a_user_names(desk: Desk, page: Any) -> None:
    pause(desk)
    first, second = desk.backend_ids()
    group = desk.submit_to_pool(2)
    page.goto(f"{desk.url}/groups/{group}")
    card = page.locator(".card").first
    expect(card.locator(".machine")).to_have_text("any backend")
    card.get_by_role("button", name="Move …").click()
    expect(page.locator("#place-text")).to_contain_text("waits for the chosen backend alone")
    expect(page.locator("#place-where option")).to_have_count(2)
    page.locator("#place-where").select_option(f"backend:{second}")
    page.get_by_role("button", name="Move the job").click()
    expect(card.locator(".machine")).to_have_text(name(second))
    expect(page.locator(".card").nth(1).locator(".machine")).to_have_text("any backend")
    page.goto(f"{desk.url}/backends")
    expect(page.locator(f"#b-{second} .c-queued")).to_have_attribute(
        "title", "1 queued for it, 1 in the pool"
    )
    page.goto(f"{desk.url}/backends/{first}")
    expect(page.locator("#backend")).to_contain_text("1 in the pool")
    sound(page)


def test_a_retry_without_another_backend_says_what_may_be_chosen(desk: Desk, page: Any) -> None:
    desk.order(0, name="node_error", message="bad value", count=1)
    group = desk.submit(1)
    desk.until_ended(group)
    desk.http.post(f"{desk.url}/api/backends/{desk.backend_ids()[1]}/pause")
    page.goto(f"{desk.url}/groups/{group}")
    page.get_by_role("button", name="Retry 1 failed …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Backend").select_option("Another backend that works")
    dialog.get_by_role("button", name="Retry 1 job").click()
    expect(page.locator("#toast")).to_contain_text("Choose the same backend, or one by its name.")


def test_a_retry_in_the_pool_offers_no_backend_that_its_group_does_not_have(
    desk: Desk, page: Any
) -> None:
    home = desk.backend_ids()[0]
    desk.order(0, name="node_error", message="bad value", count=1)
    group = desk.submit_to_pool(1, backend_ids=[home], max_attempts=1)
    desk.until_ended(group)
    desk.http.post(f"{desk.url}/api/backends/{home}/quarantine", json={"reason": "checks"})
    page.goto(f"{desk.url}/groups/{group}")
    page.get_by_role("button", name="Retry 1 failed …").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 1 job").click()
    expect(page.locator("#toast")).to_contain_text(
        f"{name(home)} takes no jobs: Quarantined by a person: checks. Retry on another backend"
    )
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert desk.status(group)["run"] == 1


def test_jobs_of_the_pool_that_failures_retries_stay_in_the_pool(desk: Desk, page: Any) -> None:
    home, other = desk.backend_ids()
    message = "CUDA out of memory."
    desk.order(0, name="node_error", type="torch.OutOfMemoryError", message=message, count=2)
    pool = desk.submit_to_pool(1, backend_ids=[home], max_attempts=1)
    bound = desk.submit(1)
    for group in (pool, bound):
        desk.until_ended(group)
    pause(desk)
    page.goto(f"{desk.url}/failures")
    row = page.locator(".cause.s-failed", has_text=message)
    row.get_by_role("button", name="Retry 2 jobs").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Backend").locator("option:checked")).to_have_text(
        "As suits each job"
    )
    assert desk.http.post(f"{desk.url}/api/backends/{other}/resume").is_success
    dialog.get_by_role("button", name="Retry 2 jobs").click()
    expect(page.locator("#toast")).to_contain_text("2 jobs are retried.")
    assert desk.status(pool)["child_jobs"][0]["backend_id"] is None
    assert desk.until_ended(bound)["child_jobs"][0]["backend_id"] == other
