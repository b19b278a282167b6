"""From a phone, with a token: the form, the session, and the sockets that it opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import Served

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect

TOKEN = "correct-horse-battery-staple"


def test_a_phone_signs_in_and_sees_live_groups(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, environment={"DIRECTOR_TOKEN": TOKEN})
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    try:
        page = context.new_page()
        page.goto(f"{served.url}/backends?x=1")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.get_by_label("Token").fill("wrong-wrong-wrong-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_url("**/backends?x=1")
        expect(page.locator("#line-live")).to_have_text("live")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        context.clear_cookies()
        page.get_by_role("button", name="Find on this machine").click()
        page.wait_for_url("**/sign-in?next=*")
    finally:
        context.close()
        served.stop()
