"""The log of deliveries and its page, the replay, and test messages."""

import contextlib

import pytest
from pytest_django import Settings

from jobgroups.models import JobGroup, WebhookDelivery
from tests.api.conftest import Api, error_of, wrong_fields
from tests.harness.receiver import Receiver

PATH = "/api/webhooks/deliveries"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def group(api: Api, farm: list[str]) -> str:
    """A group with a delivery that is pending, one that is delivered and one that is given up."""
    events = ["child_cancelled", "group_created", "group_complete"]
    group_id: str = api.submit("gpu-1", webhook={"url": "https://a.example/", "events": events})[
        "job_group_id"
    ]
    api.delete(f"/api/job-groups/{group_id}")
    rows = WebhookDelivery.objects
    rows.filter(type="group_created").update(
        due_at=None, delivered_at="2026-02-01T07:00:00Z", last_status=204
    )
    rows.filter(type="child_cancelled").update(
        due_at=None, last_status=500, last_error="Given up: <b>"
    )
    return group_id


def test_deliveries_are_listed_by_group_and_state_in_pages(api: Api, group: str) -> None:
    listed = api.get(f"{PATH}?group={group}&limit=2").json()
    assert [one["state"] for one in listed["results"]] == ["pending", "given_up"]
    rest = api.get(listed["next"].partition("localhost:9820")[2]).json()
    assert [one["state"] for one in rest["results"]] == ["delivered"]
    for state in ("pending", "delivered", "given_up"):
        assert [one["state"] for one in api.get(f"{PATH}?state={state}").json()["results"]] == [
            state
        ]
    assert api.get(f"{PATH}?group=jg_other").json()["results"] == []
    assert set(wrong_fields(api.get(f"{PATH}?state=lost&order=id"))) == {"state", "order"}
    cursor = "Znwy" + "MDI2LTAyLTAxVDA3OjAwOjAwLjAwMFp8YWJj"  # of a list whose ids are texts
    assert set(wrong_fields(api.get(f"{PATH}?cursor={cursor}"))) == {"cursor"}
    page = api.get(f"/webhooks?state=given_up&group={group}").content.decode()
    assert ("Given up: &lt;b&gt;" in page, page.count("data-replay=")) == (True, 1)
    name = JobGroup.objects.get(pk=group).title
    assert page.count(f">{name}</a>") == 2  # that of the filter, and of the delivery
    assert f"/webhooks?group={group}" in api.get(f"/groups/{group}").content.decode()


def test_replay_makes_a_delivery_pending_again(api: Api, group: str) -> None:
    [lost] = api.get(f"{PATH}?state=given_up").json()["results"]
    again = api.post(f"{PATH}/{lost['id']}/replay", {}).json()
    assert (again["state"], again["attempts"], again["last_error"]) == ("pending", 0, None)
    assert again["webhook_id"] == lost["webhook_id"]
    for unknown in ("10000000", "x", "9" * 30):
        error_of(api.post(f"{PATH}/{unknown}/replay", {}), 404, "delivery_not_found")


def test_test_message_shows_what_the_target_answers(api: Api, settings: Settings) -> None:
    assert set(wrong_fields(api.post("/api/webhooks/test", {"url": "http://127.0.0.1/"}))) == {
        "url"
    }
    settings.DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES = True
    with contextlib.closing(Receiver(lambda path: 204 if path == "/hook" else 401)) as hook:
        found = api.post("/api/webhooks/test", {"url": hook.url}).json()
        assert found == {"delivered": True, "status": 204, "answer": "", "error": None}
        refused = api.post("/api/webhooks/test", {"url": f"{hook.url}/x"}).json()
        assert (refused["delivered"], refused["status"]) == (False, 401)
        assert [one["type"] for one in hook.got.values()] == ["test"]
    assert "refused" in api.post("/api/webhooks/test", {"url": hook.url}).json()["error"]
