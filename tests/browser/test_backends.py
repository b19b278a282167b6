"""Backends on their page: added, found, held, drained, quarantined and released."""

import contextlib
import datetime as dt
import re
import sqlite3
from typing import Any

from playwright.sync_api import expect

from tests.browser.desk import Desk
from tests.browser.test_soundness import sound
from tests.harness.servers import free_port
from tests.harness.simulator_thread import SimulatorThread


def open_form(desk: Desk, page: Any, address: str) -> None:
    page.goto(f"{desk.url}/backends")
    page.get_by_role("button", name="Add a backend").click()
    page.get_by_label("Address").fill(address)


def test_a_wrong_address_is_named_before_it_is_added(desk: Desk, page: Any) -> None:
    open_form(desk, page, f"127.0.0.1:{free_port()}")
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator("#tested")).to_have_class("tested wrong")
    expect(page.locator("#tested")).to_contain_text("connection")
    page.get_by_label("Address").fill("ftp://nowhere")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add-url-error")).not_to_be_empty()
    expect(page.get_by_label("Address")).to_have_attribute("aria-invalid", "true")


def row_of(page: Any, name: str) -> Any:
    return page.locator("#farm tbody tr", has=page.get_by_role("link", name=name, exact=True))


def choose(row: Any, action: str) -> None:
    """Choose an action of a row's menu."""
    row.get_by_role("button", name="Actions for").click()
    row.page.locator("#row-menu").get_by_role("button", name=action).click()


def test_a_right_address_becomes_a_row_that_is_renamed_in_place(desk: Desk, page: Any) -> None:
    with SimulatorThread(1, name="attic", seconds=0.5) as attic:
        open_form(desk, page, attic.urls[0])
        page.get_by_label("Name (optional)", exact=True).fill("Attic <i>")
        page.get_by_role("button", name="Test the connection").click()
        expect(page.locator("#tested")).to_contain_text("Online: ComfyUI")
        page.get_by_role("button", name="Add", exact=True).click()
        row = row_of(page, "Attic <i>")
        expect(row).to_contain_text("Online")
        row.get_by_role("button", name="Rename").click()
        page.get_by_role("textbox", name="Name of Attic <i>").fill("cellar-node-023")
        page.keyboard.press("Enter")
        row = row_of(page, "cellar-node-023")
        for width in (1280, 1000):
            page.set_viewport_size({"width": width, "height": 900})
            whole = row.locator(".name").evaluate("(one) => one.scrollWidth <= one.clientWidth")
            assert whole, f"its name is cut at {width} pixels"
        choose(row, "Disable …")
        page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        expect(row).to_contain_text("Disabled")
        choose(row, "Remove …")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Outputs not copied yet can no longer be loaded.")
        dialog.get_by_role("button", name="Remove").click()
        expect(row).to_have_count(0)


def test_many_backends_are_filtered_and_changed_together(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/backends")
    rows = page.locator("#farm tbody tr:visible")
    expect(rows).to_have_count(4)
    boxes = page.locator("#farm tbody [name=pick]")
    boxes.nth(0).check()
    boxes.nth(2).click(modifiers=["Shift"])
    bar = page.locator("#selection")
    expect(bar).to_contain_text("3 selected")
    expect(bar.get_by_role("button", name="Resume")).to_be_disabled()
    bar.get_by_role("button", name="Add tag …").click()
    page.get_by_label("Tag", exact=True).fill("rack")
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    chip = page.locator("#tags").get_by_role("button", name="rack 3")
    chip.click()
    expect(rows).to_have_count(3)
    bar.get_by_role("button", name="Pause …").click()
    expect(page.locator("#hold-title")).to_have_text("Pause 3 backends?")
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#farm tbody tr.s-paused:visible")).to_have_count(3)
    # A request that fails is named; the others are sent.
    gone = backend(desk, 3)
    page.get_by_role("button", name="Show all").click()
    page.locator("#pick-all").check()
    bar.get_by_role("button", name="Drain …").click()
    desk.http.delete(f"{desk.url}/api/backends/{gone['backend_id']}")
    page.get_by_role("dialog").get_by_role("button", name="Drain", exact=True).click()
    expect(page.locator("#report")).to_contain_text("1 backend could not be changed:")
    expect(page.locator("#report li")).to_contain_text(f"{gone['name']}: ")
    expect(page.locator("#farm tbody tr.s-disabled")).to_have_count(3)
    desk.http.post(
        f"{desk.url}/api/backends",
        json={name: gone[name] for name in ("url", "name", "backend_id")},
    )
    # The filter is in the URL, also while the page is live.
    page.locator("#statuses").get_by_role("button", name="3 disabled").click()
    page.get_by_role("searchbox").fill(gone["name"])
    expect(page.locator("#fits-none")).to_be_visible()
    page.reload()
    expect(page.locator("#fits-none")).to_be_visible()
    page.get_by_role("searchbox").fill("")
    expect(rows).to_have_count(3)
    page.locator("#pick-all").check()
    bar.get_by_role("button", name="Remove tag …").click()
    page.get_by_label("Tag", exact=True).fill("rack")
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("#tags")).to_have_count(0)
    bar.get_by_role("button", name="Enable").click()
    expect(page.locator("#fits-none")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#farm tbody tr.s-online")).to_have_count(4)


def test_rows_that_have_not_changed_are_not_sent_again(desk: Desk, page: Any) -> None:
    answers: list[Any] = []
    page.on("response", lambda one: answers.append(one) if "/parts/" in one.url else None)
    page.clock.install()
    page.goto(f"{desk.url}/backends")
    names = [backend(desk, index)["name"] for index in range(4)]
    row_of(page, names[3]).locator("[name=pick]").check()
    page.evaluate("document.querySelectorAll('#farm tr').forEach(row => { row.old = true; })")
    desk.http.patch(
        f"{desk.url}/api/backends/{desk.backend_ids()[0]}", json={"tags": ["attic", "rack"]}
    )
    expect(row_of(page, names[0])).to_contain_text("attic")
    for name in names:
        expect(row_of(page, name)).to_have_count(1)
    assert page.evaluate("[...document.querySelectorAll('#farm tr')].every(row => row.old)")
    expect(row_of(page, names[3]).locator("[name=pick]")).to_be_checked()
    while not any(one.status == 304 for one in answers):
        with page.expect_response("**/parts/**"):
            page.clock.fast_forward(10_000)  # when the page requests its rows by itself
    desk.http.patch(f"{desk.url}/api/backends/{desk.backend_ids()[0]}", json={"tags": []})
    expect(row_of(page, names[0])).not_to_contain_text("attic")


def test_the_page_of_a_backend_shows_models_jobs_and_attempts(desk: Desk, page: Any) -> None:
    group = desk.submit(1, metadata={"name": "First"})
    desk.until_ended(group)
    page.goto(f"{desk.url}/backends")
    row_of(page, backend(desk)["name"]).get_by_role(
        "link", name=backend(desk)["name"], exact=True
    ).click()
    expect(page.locator("#models").get_by_role("list", name="Checkpoints")).not_to_be_empty()
    expect(page.locator(".attempts")).to_contain_text("First #1Succeeded")
    desk.slow(6)
    desk.order(0, name="stuck", step=15)
    second = desk.submit(1, metadata={"name": "Second"})
    bar = page.get_by_role("progressbar", name="Progress of Second")
    expect(bar).to_be_visible()
    page.wait_for_function("() => document.querySelector('.work progress').value > 5")
    sound(page)
    desk.http.delete(f"{desk.url}/api/job-groups/{second}")
    expect(bar).to_have_count(0)


def test_a_found_comfyui_is_ignored_offered_again_and_added(desk: Desk, page: Any) -> None:
    with SimulatorThread(1, name="guest", seconds=0.5) as guest:
        address = f"localhost:{guest.urls[0].rsplit(':', 1)[1]}"
        page.goto(f"{desk.url}/backends")
        expect(page.locator("#line-live")).to_have_text("live")
        # Stored, since the ports that discovery probes are the machine's.
        found = {"url": f"http://{address}", "comfyui_version": "0.3.64", "devices": "[]"}
        times = {"first_seen_at": "now", "last_seen_at": "now"}
        store(desk, "backends_foundbackend", **found, **times, backend_id="")
        # It comes to the open page by itself.
        offer = page.locator(".offer")
        expect(offer).to_contain_text(f"Found {address}")
        above = page.locator("#add-open").bounding_box()
        assert offer.bounding_box()["y"] >= above["y"] + above["height"] + 8
        offer.get_by_role("button", name="Ignore").click()
        expect(offer).to_contain_text(f"Ignored: {address}")
        offer.get_by_role("button", name="Offer again").click()
        expect(offer).to_contain_text(f"Found {address}")
        page.goto(desk.url)
        expect(page.get_by_text(f"Found {address}, which is not registered.")).to_be_visible()
        page.get_by_role("link", name="Add or ignore").click()
        sound(page)
        offer.get_by_role("button", name="Add").click()
        expect(offer).to_have_count(0)
        expect(row_of(page, address)).to_be_visible()
    removed = desk.http.delete(f"{desk.url}/api/backends/{address.replace(':', '_')}")
    assert removed.status_code == 204


def store(desk: Desk, table: str, **row: Any) -> None:
    """Store a row as a runner would; the value ``now`` is the present moment."""
    moment = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S}"
    values = [moment if value == "now" else value for value in row.values()]
    with contextlib.closing(sqlite3.connect(desk.served.data / "director.sqlite3")) as database:
        places = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", values)  # noqa: S608
        database.commit()


def test_what_a_backend_cannot_run_is_shown_and_lifted(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/backends/{desk.backend_ids()[0]}")
    expect(page.locator("#line-live")).to_have_text("live")
    kind = {"workflow_digest": "d", "variant_id": 0, "kind": "missing", "count": 1}
    kind |= {"reason": "ckpt_name: 'a.safetensors' not in []", "since": "now", "last_at": "now"}
    store(desk, "jobgroups_exclusion", backend_id=desk.backend_ids()[0], **kind)
    # It comes to the open page by itself.
    listed = page.get_by_role("list", name="Cannot run")
    expect(listed).to_contain_text("Cannot run this workflow: ckpt_name: 'a.safetensors'")
    sound(page)
    listed.get_by_role("button", name="Lift").click()
    expect(listed).to_have_count(0)


def test_a_backend_that_goes_away_comes_first_and_says_why(
    desk: Desk, simulators: SimulatorThread, page: Any
) -> None:
    page.goto(f"{desk.url}/backends")
    simulators.fault("refuse_connections", on=3, seconds=600)
    simulators.fault("drop_sockets", on=3)
    first = page.locator("#farm tbody tr").first
    expect(first).to_contain_text("Offline")
    expect(first.locator(".c-status")).to_have_attribute("title", re.compile("."))
    simulators.clear_faults(on=3)
    expect(page.locator("tr.s-offline")).to_have_count(0)


def page_of(desk: Desk, page: Any, index: int = 0) -> Any:
    page.goto(f"{desk.url}/backends/{desk.backend_ids()[index]}")
    return page.locator("#backend")


def backend(desk: Desk, index: int = 0) -> dict[str, Any]:
    path = f"{desk.url}/api/backends/{desk.backend_ids()[index]}"
    found: dict[str, Any] = desk.http.get(path).json()
    return found


def one_runs_and_one_waits(desk: Desk, page: Any) -> tuple[str, Any]:
    """Have one picture rendered at the first backend, one stand in its queue, and one wait for it."""
    desk.slow()
    group = desk.submit(9, metadata={"name": "Held back"})
    first = desk.backend_ids()[0]

    def there(status: dict[str, Any]) -> bool:
        mine = [one["status"] for one in status["child_jobs"] if one["backend_id"] == first]
        return sorted(mine) == ["queued", "queued", "running"]

    desk.until(group, there)
    shown = page_of(desk, page)
    expect(shown).to_contain_text("1 queued")
    return group, shown


def test_a_pause_says_first_what_it_will_hit_and_then_who_paused_it(desk: Desk, page: Any) -> None:
    _, shown = one_runs_and_one_waits(desk, page)
    shown.get_by_role("button", name="Pause …").click()
    text = page.locator("#hold-text")
    expect(text).to_contain_text("1 job running and 1 job pending: finished first.")
    expect(text).to_contain_text("1 queued job waits until you resume.")
    page.get_by_label("Now: stop the jobs and queue them again").check()
    expect(text).to_contain_text("stopped and queued again")
    page.get_by_label("After the current jobs").check()
    page.get_by_label("Reason (optional)").fill("the fan is <i>loud</i>")
    page.get_by_label("Your name (optional)").fill("Anna")
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(shown).to_contain_text("Paused by Anna")
    expect(shown).to_contain_text("the fan is <i>loud</i>")
    assert backend(desk)["evict"] is False
    shown.get_by_role("button", name="Resume").click()
    expect(shown).to_contain_text("Busy")
    assert backend(desk)["changed_by"] == "Anna", "the name is remembered"


def test_partner_nodes_and_extensions_are_allowed_after_a_question(desk: Desk, page: Any) -> None:
    shown = page_of(desk, page, 2)
    shown.get_by_role("button", name="Allow partner nodes …").click()
    page.get_by_role("dialog").get_by_role("button", name="Allow", exact=True).click()
    expect(shown).to_contain_text("Allowed to run partner nodes.")
    expect(shown).to_contain_text("set DIRECTOR_COMFY_ORG_API_KEY.")
    shown.get_by_role("button", name="Forbid partner nodes").click()
    expect(shown).not_to_contain_text("Allowed to run partner nodes.")
    shown.get_by_role("button", name="Allow editor extensions …").click()
    page.get_by_role("dialog").get_by_role("button", name="Allow", exact=True).click()
    expect(shown).to_contain_text("scripts of its custom nodes act as")
    shown.get_by_role("button", name="Forbid editor extensions").click()
    expect(shown).not_to_contain_text("scripts of its custom nodes act as")


def test_a_machine_is_set_aside_and_released(desk: Desk, page: Any) -> None:
    shown = page_of(desk, page, 2)
    shown.get_by_role("button", name="Quarantine …").click()
    page.get_by_label("Minutes").fill("30")
    page.get_by_label("Reason (optional)").fill("it smokes")
    page.get_by_role("dialog").get_by_role("button", name="Quarantine", exact=True).click()
    expect(shown).to_contain_text("Quarantined by")
    expect(shown).to_contain_text("it smokes")
    expect(shown).to_contain_text("Probed again in")
    shown.get_by_role("button", name="Release …").click()
    page.get_by_role("dialog").get_by_role("button", name="Release", exact=True).click()
    expect(shown).to_contain_text("On probation")
    assert backend(desk, 2)["on_probation"] is True


def test_hours_are_set_on_the_page_of_a_backend(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/backends/{desk.backend_ids()[0]}")
    hours = page.get_by_label("Hours in which it takes jobs")
    hours.fill("monday")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.get_by_text("is no part of hours")).to_be_visible()
    try:
        hours.fill("mon 07:00-07:00")
        page.get_by_role("button", name="Set", exact=True).click()
        expect(page.locator("#backend")).to_contain_text("Outside its hours")
    finally:
        hours.fill("")
        page.get_by_role("button", name="Set", exact=True).click()
        expect(page.locator("#backend")).not_to_contain_text("Outside its hours")
