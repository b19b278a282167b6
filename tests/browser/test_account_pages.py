"""The pages of accounts, with private groups: their layout, people, tokens, and what a role does not permit."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.test_soundness import sound
from tests.harness.processes import Served, filled

ADMINISTRATOR = "administrator_" + "w" * 46
PASSWORD = "a quiet harbour"
FILL = f"""
from django.contrib.auth.models import User
from director.accounts import people
from jobgroups.domain.access import Role
from jobgroups.domain.clock import now
from jobgroups.models import AuditEntry, JobGroup, WebhookDelivery
from tests.harness import factories

for name, role in (("{ADMINISTRATOR}", Role.ADMINISTRATOR), ("ben", Role.ARTIST), ("vera", Role.VIEWER)):
    user = people.person_add(name, role)
    user.set_password("{PASSWORD}")
    user.save()
owner = User.objects.get(username="{ADMINISTRATOR}")
factories.backend("gpu-1", hours="mon-fri 19:00-07:00")
group = factories.submit("gpu-1", metadata={{"name": "night_" * 30}}, runner_alive=False)
JobGroup.objects.update(owner_id=owner.pk)
WebhookDelivery.objects.create(
    group_id=group.id, seq=1, type="group_complete", url="https://hooks.example/" + "long_" * 100,
    message_id="m", created_at=now(), last_error="<html>" * 80,
)
AuditEntry.objects.create(
    created_at=now(), actor="ben", address="192.168.100.177", action="backend.changed", target="gpu-1",
    details_json='{{"name": "' + "no_blank_" * 20 + '"}}',
)
for name, count in (("ben", 1), ("{ADMINISTRATOR}", 2)):
    failed = factories.submit(*["gpu-1"] * count, runner_alive=False)
    failed.children.update(status="failed", failure_class="node_error", completed_at=now())
    user = User.objects.get(username=name)
    JobGroup.objects.filter(pk=failed.pk).update(owner_id=user.pk, shared_at=now())
print(group.id)
"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a Director with accounts, and the id of the administrator's group."""
    folder = tmp_path_factory.mktemp("studio")
    group = filled(folder, FILL).split()[-1]
    environment = {"DIRECTOR_ACCOUNTS": "1", "DIRECTOR_PRIVATE": "1"}
    served = Served(folder, environment=environment, arguments=("--port", "0", "--no-runner"))
    yield served.url, group
    served.stop()


def sign_in(page: Any, url: str, name: str) -> None:
    page.goto(f"{url}/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/")


def test_pages_of_an_administrator_fit_a_phone_and_a_desk(
    page: Any, studio: tuple[str, str]
) -> None:
    url, _ = studio
    page.emulate_media(color_scheme="dark")
    page.goto(f"{url}/sign-in")
    sound(page)
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.get_by_text("Director", exact=True)).to_be_visible()
    sign_in(page, url, ADMINISTRATOR)
    for path in ("account", "account/password", "people", "audit", "webhooks", "usage", "submit"):
        page.goto(f"{url}/{path}")
        sound(page)
        page.set_viewport_size({"width": 1280, "height": 844})
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{url}/people")
    accounts = page.locator("#accounts")
    assert accounts.evaluate("(one) => one.scrollWidth <= one.clientWidth"), "actions are cut"
    # What does not fit the footer is reached by scrolling it; the account is its first link.
    assert page.locator("#line a").first.bounding_box()["width"] > 60
    page.get_by_role("link", name="Record").click()
    page.wait_for_url("**/audit")
    page.set_viewport_size({"width": 1280, "height": 844})
    # The first column keeps its width beside a long text.
    page.goto(f"{url}/audit")
    row = page.get_by_role("row").filter(has_text="no_blank_")
    assert row.bounding_box()["height"] < 100


def test_accounts_are_added_changed_and_disabled_on_the_page_that_is_open(
    page: Any, studio: tuple[str, str]
) -> None:
    url, _ = studio
    sign_in(page, url, ADMINISTRATOR)
    page.goto(f"{url}/people")
    page.get_by_label("Name", exact=True).fill("carl")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("Send this link to carl")).to_be_visible()
    row = page.get_by_role("row", name="carl")
    expect(row).to_contain_text("has no password yet")
    expect(page.get_by_role("row", name="vera")).to_contain_text("has not signed in yet")
    # A refused change is not shown.
    role = page.get_by_label(f"Role of {ADMINISTRATOR}")
    role.select_option("artist")
    expect(page.locator("#toast")).to_contain_text("is the last administrator")
    expect(role).to_have_value("administrator")
    page.get_by_label("Role of carl").select_option("operator")
    expect(page.locator('[data-role="carl"] option[selected]')).to_have_text("operator")
    page.get_by_role("button", name="Disable carl").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(row).to_contain_text("disabled")
    expect(page.get_by_role("button", name="Enable carl")).to_be_focused()


def test_a_token_is_in_the_table_once_it_is_made_and_not_after_it_was_revoked(
    page: Any, studio: tuple[str, str]
) -> None:
    url, _ = studio
    sign_in(page, url, "ben")
    page.goto(f"{url}/account")
    expect(page.get_by_role("heading", name="No tokens")).to_be_visible()
    page.get_by_label("Name").fill("nuke")
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_text("Copy it now")).to_be_visible()
    expect(page.get_by_role("row", name="nuke")).to_contain_text("never")
    page.get_by_role("button", name="Revoke … nuke").click()
    page.get_by_role("button", name="Revoke the token").click()
    expect(page.get_by_role("heading", name="No tokens")).to_be_visible()


def test_a_role_sees_no_control_that_it_may_not_use_and_a_way_out(
    page: Any, studio: tuple[str, str]
) -> None:
    url, group = studio
    sign_in(page, url, "vera")
    page.goto(f"{url}/backends/gpu-1")
    expect(page.get_by_text("mon-fri 19:00-07:00")).to_be_visible()
    expect(page.get_by_label("Hours in which it takes jobs")).to_have_count(0)
    page.goto(f"{url}/backends")
    expect(page.get_by_label("Select gpu-1")).to_be_hidden()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{url}/submit")
    expect(page.get_by_text("Your role sees groups, and submits none.")).to_be_visible()
    # The group of another account is not shown, and the search is.
    page.goto(f"{url}/groups/{group}")
    expect(page.get_by_text("may be the private work of another account")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_value(group)
    sound(page)


def test_failures_retry_the_jobs_of_the_own_groups_alone(
    page: Any, studio: tuple[str, str]
) -> None:
    url, _ = studio
    sign_in(page, url, "ben")
    page.goto(f"{url}/failures")
    page.get_by_role("button", name="Retry 3 jobs").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("2 jobs are left out: their groups are of other accounts.")
    dialog.get_by_role("button", name="Retry 1 job").click()
    expect(page.locator("#toast")).to_have_text("1 job is retried.")
    page.get_by_role("button", name="Retry 2 jobs").click()
    expect(page.locator("#toast")).to_contain_text("their owners or an operator may retry them")


def test_form_of_a_new_group_stays_when_the_session_ends(
    page: Any, studio: tuple[str, str]
) -> None:
    url, _ = studio
    sign_in(page, url, "ben")
    page.goto(f"{url}/submit")
    page.get_by_label("How many?").fill("7")
    expect(page.locator("#line-live")).to_have_text("live")
    context = page.context.browser.new_context()
    try:
        other = context.new_page()
        sign_in(other, url, ADMINISTRATOR)
        other.goto(f"{url}/people")
        other.get_by_role("button", name="Disable ben").click()
        other.get_by_role("dialog").get_by_role("button", name="Disable").click()
        expect(page.locator("#away")).to_contain_text("You are signed out. Sign in in another tab")
        expect(page.get_by_label("How many?")).to_have_value("7")
        other.get_by_role("button", name="Enable ben").click()
        expect(page.locator("#line-live")).to_have_text("live")
        expect(page.locator("#away")).not_to_contain_text("signed out")
        expect(page.get_by_label("How many?")).to_have_value("7")
    finally:
        context.close()
