"""Adding a backend with a wrong and a right address; disabling and enabling one."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from typing import Any

import pytest

from backends.simulator.threaded import SimulatorThread
from tests.browser.conftest import free_port
from tests.browser.desk import Desk
from tests.browser.test_soundness import serious

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


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


def test_a_right_address_becomes_a_lane(desk: Desk, page: Any) -> None:
    with SimulatorThread(1, name="attic", seconds=0.5) as attic:
        open_form(desk, page, attic.urls[0])
        page.get_by_label("Name (optional)", exact=True).fill("Attic <i>")
        page.get_by_role("button", name="Test the connection").click()
        expect(page.locator("#tested")).to_contain_text("Online: ComfyUI")
        page.get_by_role("button", name="Add", exact=True).click()
        lane = page.locator(".lane", has=page.get_by_role("heading", name="Attic <i>"))
        expect(lane).to_contain_text("Online")
        lane.get_by_text("More").click()
        lane.get_by_role("button", name="Disable").click()
        page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        expect(lane).to_contain_text("Disabled")
        lane.get_by_role("button", name="Remove …").click()
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        expect(lane).to_have_count(0)


def test_a_found_comfyui_is_ignored_offered_again_and_added(desk: Desk, page: Any) -> None:
    with SimulatorThread(1, name="guest", seconds=0.5) as guest:
        address = f"localhost:{guest.urls[0].rsplit(':', 1)[1]}"
        page.goto(f"{desk.url}/backends")
        expect(page.locator("#line-live")).to_have_text("live")
        find(desk, f"http://{address}")
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
        assert serious(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        offer.get_by_role("button", name="Add").click()
        expect(offer).to_have_count(0)
        expect(page.locator(".lane").get_by_role("heading", name=address)).to_be_visible()
    removed = desk.http.delete(f"{desk.url}/api/backends/{address.replace(':', '_')}")
    assert removed.status_code == 204


def find(desk: Desk, url: str) -> None:
    """Store that a ComfyUI was found a moment ago; the ports that discovery probes are the machine's."""
    moment = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S}"
    with contextlib.closing(sqlite3.connect(desk.served.data / "director.sqlite3")) as database:
        database.execute(
            "INSERT INTO backends_foundbackend (url, comfyui_version, devices, first_seen_at,"
            " last_seen_at, backend_id) VALUES (?, '0.3.64', '[]', ?, ?, '')",
            [url, moment, moment],
        )
        database.commit()


def test_what_runs_there_stands_in_its_lane_ours_and_others(desk: Desk, page: Any) -> None:
    desk.order(0, name="foreign_prompt", prompts=2, seconds=4)
    group = desk.submit(1, metadata={"name": "In the lane"})
    page.goto(f"{desk.url}/backends")
    lane = page.locator(".lane", has_text="In the lane")
    expect(lane).to_contain_text("external")
    expect(lane.get_by_role("link", name="In the lane")).to_have_attribute(
        "href", f"/groups/{group}#{desk.status(group)['child_jobs'][0]['job_id']}"
    )
    desk.clear()


def test_a_backend_that_goes_away_comes_first_and_says_why(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/backends")
    desk.order(3, name="refuse_connections", seconds=5)
    desk.order(3, name="drop_sockets")
    first = page.locator(".lane").first
    expect(first).to_contain_text("Offline")
    expect(first.locator(".reason")).not_to_be_empty()
    expect(page.locator(".lane.s-offline")).to_have_count(0, timeout=40_000)
