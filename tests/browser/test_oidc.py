"""Sign-in by a provider of OpenID Connect: a real browser, Director and provider."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import expect

from tests.harness.oidc_provider import CLIENT, SECRET, Provider
from tests.harness.processes import ROOT, Served, settings_of

PASSWORD = "a quiet harbour"
PEOPLE: dict[str, dict[str, Any]] = {
    "anna": {
        "sub": "u1",
        "preferred_username": "anna",
        "email": "anna@studio.example",
        "email_verified": True,
        "groups": ["artists"],
    },
    # Another person of the studio with the name and the address of the local account.
    "vera": {
        "sub": "u2",
        "preferred_username": "vera",
        "email": "vera@studio.example",
        "email_verified": True,
        "groups": [],
    },
    "eve": {"sub": "u3", "email": "eve@else.example", "email_verified": True},
    "mallory": {"sub": "u4", "email": "mallory@studio.example", "email_verified": False},
    "guest": {"sub": "u5", "name": "Guest of Contract", "contract": {"kind": ["render"]}},
}


@pytest.fixture
def provider() -> Iterator[Provider]:
    running = Provider({name: {**claims} for name, claims in PEOPLE.items()})
    yield running
    running.close()


@pytest.fixture
def director(tmp_path: Path, provider: Provider) -> Iterator[Served]:
    variables = {
        "DIRECTOR_ACCOUNTS": "1",
        "DIRECTOR_OIDC_ISSUER": provider.url,
        "DIRECTOR_OIDC_NAME": "Studio",
        "DIRECTOR_OIDC_CLIENT_ID": CLIENT,
        "DIRECTOR_OIDC_CLIENT_SECRET": SECRET,
        "DIRECTOR_OIDC_ALLOW": "studio.example,contract.kind=render",
        "DIRECTOR_OIDC_ROLES": "artists=artist,machines=operator",
    }
    served = Served(tmp_path, arguments=["--port", "0", "--processes", "1"], environment=variables)
    yield served
    assert served.stop() == 0


def _add(folder: Path, name: str, role: str) -> str:
    """Add an account with a password, and return the path of its link."""
    made = subprocess.run(
        [sys.executable, "manage.py", "people", "add", name, "--role", role],
        env=settings_of(folder, environment={"DIRECTOR_ACCOUNTS": "1"}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return urlsplit(made.stdout.split()[-1]).path


def _sign_in(page: Any, director: Served, name: str, wanted: str = "/account") -> None:
    # A page whose session ends goes to the sign-in by itself, also while another one is requested.
    page.goto("about:blank")
    page.context.clear_cookies()
    page.goto(f"{director.url}{wanted}")
    page.get_by_role("link", name="Sign in with Studio").click()
    page.get_by_role("link", name=name, exact=True).click()


@pytest.mark.timeout(400)
def test_people_of_the_provider_sign_in_with_their_roles(
    page: Any, director: Served, provider: Provider, tmp_path: Path
) -> None:
    link = _add(tmp_path, "vera", "administrator")
    _sign_in(page, director, "anna", "/backends")
    expect(page).to_have_url(f"{director.url}/backends")
    expect(page.get_by_role("link", name="anna", exact=True)).to_be_visible()
    # An artist submits, and does not change the farm.
    expect(page.get_by_role("link", name="Submit", exact=True)).to_be_visible()
    expect(page.locator("#add-open")).to_be_hidden()
    # Another role of the provider counts at the next sign-in, for the same account.
    provider.people["anna"]["groups"] = ["machines"]
    _sign_in(page, director, "anna", "/backends")
    expect(page.locator("#add-open")).to_be_visible()
    # The name and the address of an account do not give it.
    _sign_in(page, director, "vera")
    expect(page.get_by_role("heading", name="vera-2")).to_be_visible()
    expect(page.get_by_text("Role: viewer.")).to_be_visible()
    expect(page.get_by_role("link", name="Submit", exact=True)).to_be_hidden()
    _sign_in(page, director, "guest")
    expect(page.get_by_role("heading", name="Guest-of-Contract")).to_be_visible()
    for stranger in ("eve", "mallory"):
        _sign_in(page, director, stranger)
        expect(page.get_by_role("alert")).to_contain_text("may not use this Director")
        assert page.goto(f"{director.url}/api/whoami").status == 401
    # A state that another browser began, or that a page made up.
    page.goto("about:blank")
    page.context.clear_cookies()
    page.goto(f"{director.url}/sign-in/oidc/callback?code=1&state=forged")
    expect(page.get_by_role("alert")).to_contain_text("did not confirm")
    # The provider is away: passwords work.
    provider.close()
    page.goto(f"{director.url}/sign-in/oidc")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    with httpx.Client(
        base_url=director.url, headers={"origin": director.url}, trust_env=False, timeout=60
    ) as vera:
        form = {"password": PASSWORD, "again": PASSWORD}
        assert vera.post(link, data=form).headers["location"] == "/"
        people = {one["name"]: one["role"] for one in vera.get("/api/people").json()["people"]}
        assert people == {
            "vera": "administrator",
            "anna": "operator",
            "vera-2": "viewer",
            "Guest-of-Contract": "viewer",
        }
        failed = vera.get("/api/audit?action=sign_in.failed").json()["results"]
        assert {one["target"] for one in failed} == {"eve@else.example", "mallory@studio.example"}
        changed = vera.get("/api/audit?action=person.changed").json()["results"]
        assert [(one["target"], one["details"]) for one in changed] == [
            ("anna", {"role": "operator"})
        ]
    assert not re.search(r"Traceback|a secret of the client", director.printed())
