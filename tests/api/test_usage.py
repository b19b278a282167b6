"""The usage of a bad day: forty jobs, five failed and were retried, one machine gone."""

import csv
import datetime as dt
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from backends.models import Backend
from director.client.decode import parser
from jobgroups.domain.clock import now
from jobgroups.domain.shapes.backends import Usage
from jobgroups.models import Attempt, ChildJob, JobGroup
from tests.api.conftest import Api, wrong_fields
from tests.harness import factories

pytestmark = pytest.mark.django_db

FORMULA = "=HYPERLINK(1)"
MIDNIGHT = dt.datetime(2026, 5, 4, tzinfo=dt.UTC)


def attempt(child: ChildJob, ended_at: dt.datetime | None, **fields: Any) -> None:
    """Store an attempt that ran for 90.5 s."""
    began = (ended_at or MIDNIGHT) - dt.timedelta(seconds=90.5)
    values = {
        "number": 1,
        "run": 1,
        "epoch": 1,
        "client_id": "c",
        "backend_id": child.backend_id,
        "started_at": began,
    }
    values |= {
        "prompt_id": f"p-{Attempt.objects.count()}",
        "state": "success" if ended_at else "running",
        **fields,
    }
    Attempt.objects.create(child=child, created_at=began, ended_at=ended_at, **values)


@pytest.fixture
def bad_day() -> JobGroup:
    factories.backend("gpu-1")
    factories.backend("gpu-gone")
    ann = factories.submit(
        "gpu-1", "gpu-gone", submitter="ann", metadata={"show": "castle", "shot": 1}
    )
    others = factories.submit(*["gpu-1"] * 38, submitter=FORMULA)
    first, gone = ann.children.order_by("position")
    attempt(gone, None, number=3)
    attempt(first, MIDNIGHT - dt.timedelta(milliseconds=1))
    moment = MIDNIGHT + dt.timedelta(hours=9)
    # A recall, which executed nothing.
    attempt(gone, moment, state="not_sent", started_at=None, number=2, is_counted=False)
    failed = {"failure_class": "out_of_memory", "state": "error"}
    for child in others.children.order_by("position"):
        attempt(child, moment, **(failed if child.position < 5 else {}))
    for child in others.children.filter(position__lt=5):
        attempt(child, moment + dt.timedelta(days=1), number=2)
    return ann


def rows(
    api: Api, by: str = "day", first: str = "2026-05-03", last: str = "2026-05-05", **more: Any
) -> list[tuple[Any, ...]]:
    """Return the values of the rows, in the order of the answer."""
    answer = api.get("/api/usage?" + urlencode({"by": by, "from": first, "to": last, **more}))
    assert answer.status_code == 200, answer.content
    found = parser(Usage)(answer.json())
    return [
        (
            *one.dimensions.values(),
            one.gpu_seconds,
            one.attempts,
            one.jobs,
            one.failures,
            one.retries,
        )
        for one in found.results
    ]


@pytest.mark.usefixtures("bad_day")
@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (
            "day",
            [
                ("2026-05-05", 452.5, 5, 5, 0, 5),
                ("2026-05-04", 3439.0, 39, 39, 5, 0),
                ("2026-05-03", 90.5, 1, 1, 0, 0),
            ],
        ),
        ("submitter", [(FORMULA, 3891.5, 43, 38, 5, 5), ("ann", 90.5, 2, 2, 0, 0)]),
        ("backend", [("gpu-1", 3982.0, 44, 39, 5, 5), ("gpu-gone", 0.0, 1, 1, 0, 0)]),
        (
            "metadata.show,backend,metadata.shot",
            [
                ("", "gpu-1", "", 3891.5, 43, 38, 5, 5),
                ("castle", "gpu-1", "1", 90.5, 1, 1, 0, 0),
                ("castle", "gpu-gone", "1", 0.0, 1, 1, 0, 0),
            ],
        ),
    ],
)
def test_usage_sums_ended_attempts_by_dimensions(api: Api, by: str, expected: list[Any]) -> None:
    assert rows(api, by) == expected


@pytest.mark.usefixtures("bad_day")
def test_days_bound_what_is_counted_and_pages_have_all_rows(api: Api) -> None:
    assert rows(api, first="2026-05-04", last="2026-05-04") == [
        ("2026-05-04", 3439.0, 39, 39, 5, 0)
    ]
    assert rows(api, first="2026-05-06", last="2026-05-06") == []
    assert api.get("/api/usage").json()["results"] == []  # of the last 30 days
    paged, path = [], "/api/usage?by=day&from=2026-05-03&to=2026-05-05&limit=2"
    while path:
        page = api.get(path).json()
        paged.append([one["dimensions"]["day"] for one in page["results"]])
        path = page["next"]
    assert paged == [["2026-05-05", "2026-05-04"], ["2026-05-03"]]


def test_csv_file_has_no_formulas(api: Api, bad_day: JobGroup) -> None:
    path = "/api/usage?by=submitter,metadata.show&from=2026-05-03&to=2026-05-05&limit=1"
    for answer in (api.get(f"{path}&format=csv"), api.get(path, accept="text/csv")):
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert (
            answer.headers["Content-Disposition"]
            == 'attachment; filename="usage-2026-05-03-2026-05-05.csv"'
        )
        assert "offset=1" in answer.headers["Link"]
        head, row = csv.reader(answer.content.decode().splitlines())
        assert head == [
            "submitter",
            "metadata.show",
            "gpu_seconds",
            "attempts",
            "jobs",
            "failures",
            "retries",
        ]
        assert row == [f"'{FORMULA}", "", "3891.5", "43", "38", "5", "5"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *(
            (f"by={by}", "by")
            for by in ("colour", "day,day", "metadata.", "day,submitter,backend,metadata.show")
        ),
        *(("from=2026-05-03&to=2026-05-02", "from"), ("from=2025-05-02&to=2026-05-03", "from")),
        *((f"to={day}", "to") for day in ("yesterday", "0001-01-01", "9999-12-31")),
        ("limit=10001", "limit"),
        ("format=xlsx", "format"),
    ],
)
def test_invalid_usage_is_refused(api: Api, query: str, field: str) -> None:
    assert field in wrong_fields(api.get(f"/api/usage?{query}"))


def test_page_shows_rows_the_choice_and_since_when_groups_are_stored(
    client: Client, bad_day: JobGroup
) -> None:
    assert "Nothing was rendered in these days" in client.get("/usage").content.decode()
    page = client.get(
        "/usage?by=backend&metadata=show&from=2026-05-03&to=2026-05-05"
    ).content.decode()
    assert "<td>gpu-1</td><td>castle</td>" in page
    Backend.objects.filter(pk="gpu-1").update(name="Rack 1")
    renamed = client.get("/usage?by=backend&from=2026-05-03&to=2026-05-05").content.decode()
    assert "<td>Rack 1</td>" in renamed
    assert '<td class="n">1.08 h</td>' in page  # 3,891.5 s
    assert (
        "by=backend%2Cmetadata.show&amp;from=2026-05-03&amp;to=2026-05-05&amp;limit=10000&amp;format=csv"
        in page
    )
    assert f"{now():%Y-%m-%d}</time>; deleted groups are not counted" in page
    of_ann = client.get("/usage?by=submitter&from=2026-05-03&to=2026-05-05").content.decode()
    assert '<td class="n">1.5 min</td>' in of_ann  # 90.5 s
    wrong = client.get("/usage?by=colour&from=x").content.decode()
    assert "by: Must be one to three of" in wrong
