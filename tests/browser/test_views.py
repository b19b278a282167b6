"""What the server renders, without a browser: filters, bars, estimates, pages that help."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from django.test import Client

from director.pages import bars, estimates, filters, words
from jobgroups.models import ChildJob, JobGroup
from jobgroups.services import groups
from tests import farm

pytestmark = pytest.mark.django_db

DONE_AT = dt.datetime(2026, 2, 1, 7, 1, tzinfo=dt.UTC)


@pytest.fixture
def client() -> Client:
    return Client(headers={"host": "localhost"})


def finished_after(seconds: float, group: JobGroup) -> None:
    """Have all children of a group completed, each after so many seconds."""
    ChildJob.objects.filter(group=group).update(
        status="completed",
        outputs_json=json.dumps(farm.OUTPUTS),
        started_at=DONE_AT - dt.timedelta(seconds=seconds),
        completed_at=DONE_AT,
    )


def test_the_estimate_is_blank_below_three_runs_and_then_their_median(client: Client) -> None:
    farm.backend()
    for seconds in (10, 40):
        finished_after(seconds, farm.submit())
    waits = farm.submit()
    part = f"/parts/groups/{waits.id}"
    assert "left" not in client.get(part).content.decode().split("data-left")[1].split("thumbs")[0]
    finished_after(90, farm.submit())
    assert "about 40 s left" in client.get(part).content.decode()


def test_another_workflow_says_nothing_about_this_one() -> None:
    first = estimates.workflow_key(json.dumps(farm.WORKFLOW), "{}")
    other = json.loads(json.dumps(farm.WORKFLOW))
    other["3"]["inputs"]["seed"] = 7
    assert estimates.workflow_key(json.dumps(other), "{}") == first
    other["3"]["inputs"]["steps"] = 50
    assert estimates.workflow_key(json.dumps(other), "{}") != first
    assert estimates.workflow_key(json.dumps(farm.WORKFLOW), '{"steps": 50}') != first


def test_backends_work_side_by_side_and_each_through_its_own() -> None:
    known = {("k", "a"): 10.0, ("k", "b"): 60.0}
    left = [estimates.Left("a", 0.0), estimates.Left("a", 0.5), estimates.Left("b", 0.5)]
    assert estimates.seconds_left(left, "k", known) == 30.0
    assert estimates.seconds_left([*left, estimates.Left("c", 0.0)], "k", known) is None
    assert estimates.seconds_left([], "k", known) is None


def test_above_fifty_children_a_segment_stands_for_a_status() -> None:
    children = [bars.Segment(f"j_{n}", "queued" if n % 2 else "failed", 0.0) for n in range(51)]
    assert len(bars.bar_of(children[:50]).segments) == 50
    bar = bars.bar_of(children)
    assert [(one.status, one.start, one.length) for one in bar.blocks] == [
        ("failed", 0, 26),
        ("queued", 26, 25),
    ]
    assert bar.label == "26 failed, 25 queued"


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"name": " Two \n lines "}, "Two lines"),
        ({"scene": "shot_1", "panel_id": 3}, "shot_1 · panel 3"),
        ({"name": {"no": "text"}, "panel": 0}, "panel 0"),
        ({"name": ""}, "jg_1"),
        ([1], "jg_1"),
    ],
)
def test_a_group_is_named_by_its_metadata_or_its_id(metadata: Any, name: str) -> None:
    assert words.group_name("jg_1", metadata) == name


def names(client: Client, query: str) -> set[str]:
    page = client.get(f"/{query}")
    assert page.status_code == 200
    return {row.name for row in page.context["board"].rows}


def test_filters_in_the_url_narrow_the_list(client: Client) -> None:
    farm.backend("gpu-1")
    farm.backend("gpu-2")
    farm.submit("gpu-1", metadata={"name": "One"}, submitter="ann")
    two = farm.submit("gpu-2", metadata={"name": "Two 50%"})
    groups.group_cancel(group_id=two.id)
    assert names(client, "") == {"One", "Two 50%"}
    assert names(client, "?state=cancelled") == {"Two 50%"}
    assert names(client, "?backend=gpu-1") == {"One"}
    assert names(client, "?text=50%25") == {"Two 50%"}
    assert names(client, f"?text={two.id[3:9]}") == {"Two 50%"}
    assert names(client, "?submitter=ann") == {"One"}
    assert names(client, "?hide=finished") == {"One"}


@pytest.mark.parametrize(
    "query",
    [
        "?state=%00",
        "?before=x",
        "?text=%00",
        "?before=2026-13-01T00:00:00.000Z_jg_0123456789ab",
        "?page=-1",
    ],
)
def test_a_query_that_makes_no_sense_counts_as_left_out(client: Client, query: str) -> None:
    farm.backend()
    farm.submit(metadata={"name": "One"})
    assert names(client, query) == {"One"}


def test_older_pages_follow_without_a_gap(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PAGE", 2)
    farm.backend()
    made = {farm.submit(metadata={"name": f"G{n}"}).id for n in range(5)}
    seen: list[str] = []
    query = ""
    for _ in range(3):
        board = client.get(f"/?{query}").context["board"]
        seen += [row.id for row in board.rows]
        query = board.older
    assert query == ""
    assert len(seen) == 5
    assert set(seen) == made


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/groups/jg_000000000000", 404),
        ("/groups/" + "x" * 64, 404),
        ("/groups/" + "x" * 65, 404),
        ("/groups/a%2Fb", 404),
        ("/parts/groups/jg_000000000000", 404),
        ("/groups/jg_000000000000/parts/head", 404),
        ("/groups/jg_000000000000/parts/cards/j_0", 404),
        ("/nowhere", 404),
        ("/submit?from=jg_000000000000&seed=x", 200),
        ("/submit?from=%00&seed=%00", 200),
    ],
)
def test_what_is_not_there_is_no_defect(client: Client, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")


def test_pages_change_nothing(client: Client) -> None:
    for path in ("/", "/backends", "/submit", "/parts/backends"):
        assert client.post(path).status_code in (403, 405)


def test_repeating_a_group_with_one_seed_takes_its_backend_alone(client: Client) -> None:
    farm.backend("gpu-1")
    farm.backend("gpu-2")
    made = farm.submit("gpu-1", "gpu-2", seed_strategy="sequential", base_seed=5)
    said = client.get(f"/submit?from={made.id}&seed=6").context["again"]
    assert (said["backend_ids"], said["base_seed"]) == (["gpu-2"], 6)
    said = client.get(f"/submit?from={made.id}").context["again"]
    assert (said["backend_ids"], said["base_seed"]) == (["gpu-1", "gpu-2"], None)


def test_many_backends_are_a_table(client: Client) -> None:
    for number in range(13):
        farm.backend(f"gpu-{number}")
    assert b'<table class="machines"' in client.get("/backends").content
    assert b'class="lane ' not in client.get("/backends").content
