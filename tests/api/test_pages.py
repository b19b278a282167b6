"""The HTML of the pages, without a browser."""

import datetime as dt
import gzip
import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape
from pytest_django import Settings

from backends.models import Backend
from backends.states import Hold
from director.pages import backends, documents, filters, group_list
from jobgroups.api.listener import editor
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.figures import Figures
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.models import ChildJob, Exclusion, JobGroup, ListenerPrompt
from jobgroups.queries.figures import kept_figures
from jobgroups.services import attempts, cancellation, holds, runners
from tests.harness import factories

pytestmark = pytest.mark.django_db


def test_pages_and_lists_are_compressed_for_those_who_accept_it(client: Client) -> None:
    for number in range(20):
        factories.backend(f"gpu-{number}")
    accepting = {"HTTP_ACCEPT_ENCODING": "gzip"}
    for path in ("/backends", "/parts/backends", "/api/backends"):
        plain, packed = client.get(path), client.get(path, **accepting)
        assert (plain.get("Content-Encoding"), packed["Content-Encoding"]) == (None, "gzip")
        assert len(packed.content) < len(plain.content) / 3
        assert len(gzip.decompress(packed.content)) == len(plain.content)
        assert "Accept-Encoding" in packed["Vary"]


def test_table_of_backends_is_sent_again_only_where_it_has_changed(client: Client) -> None:
    for number in range(1, 201):
        factories.online(f"gpu-{number}", vram=24)
    path, marked = "/parts/backends", re.compile('<tr data-mark="(.{5})"')
    first = client.get(path)
    marks = marked.findall(first.content.decode())
    assert len(set(marks)) == 200
    headers = {"HTTP_X_ROWS": "".join(marks), "HTTP_ACCEPT_ENCODING": "gzip"}
    second = client.get(path, **headers)
    assert gzip.decompress(second.content).count(b"<tr data-same=") == 200
    # When nothing changes, a page loads it six times a minute.
    headers["HTTP_IF_NONE_MATCH"] = second["ETag"]
    third = client.get(path, **headers)
    assert (third.status_code, third.content) == (304, b"")
    lines = [f"{name}: {value}" for name, value in (*headers.items(), *third.items())]
    usual = 800  # bytes: what a browser sends besides, as User-Agent and Accept-Language
    minute = len(second.content) + 6 * (len("\r\n".join(lines)) + usual)
    assert minute < 20 * 1024
    Backend.objects.filter(pk="gpu-7").update(name="Cellar")
    changed = gzip.decompress(client.get(path, **headers).content).decode()
    assert (len(marked.findall(changed)), changed.count("data-same")) == (1, 199)
    assert "Cellar" in changed


def test_slow_and_flaky_backends_come_before_those_that_work_as_they_should(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.farm(4)
    slow = Figures(seconds_per_job=80.0, relative_seconds=4.0, slow=True)
    found = {"gpu-3": slow, "gpu-4": Figures(failed_day=6, flaky=True)}
    monkeypatch.setattr(backends, "current_figures", lambda: found)
    html = client.get("/parts/backends").content.decode()
    assert re.findall('id="b-(gpu-.)"', html) == ["gpu-3", "gpu-4", "gpu-1", "gpu-2"]
    assert '<strong class="bad">slow</strong> 80.0' in html
    assert "4.0 times the seconds of the other backends" in html
    assert html.count('<strong class="bad">flaky</strong>') == 1
    assert re.findall('data-status="(slow|flaky)" data-count="(.)"', html) == [
        ("slow", "1"),
        ("flaky", "1"),
    ]


def test_scripts_and_styles_are_compressed_for_those_who_accept_it() -> None:
    async def get(**headers: str) -> Any:
        answer = await AsyncClient().get("/static/director/pages.css", headers=headers)
        if not answer.streaming or answer.status_code == 304:
            return answer, b"" if answer.streaming else answer.content
        return answer, b"".join([part async for part in answer])

    plain, content = async_to_sync(get)()
    assert (plain.get("Content-Encoding"), plain["Vary"]) == (None, "Accept-Encoding")
    packed, body = async_to_sync(get)(**{"Accept-Encoding": "br, gzip"})
    assert (packed["Content-Encoding"], packed["Vary"]) == ("gzip", "Accept-Encoding")
    assert packed["Content-Type"] == plain["Content-Type"]
    assert len(body) < len(content) / 3
    assert gzip.decompress(body) == content
    assert "ETag" not in packed
    since = {"Accept-Encoding": "gzip", "If-Modified-Since": packed["Last-Modified"]}
    assert async_to_sync(get)(**since)[0].status_code == 304


def test_above_fifty_children_a_segment_stands_for_a_status() -> None:
    children = [ChildJob(id=f"j_{n}", status="queued" if n % 2 else "failed") for n in range(51)]
    assert len(group_list.bar_of(children[:50])["segments"]) == 50
    bar = group_list.bar_of(children)
    assert [tuple(one.values()) for one in bar["blocks"]] == [("failed", 0, 26), ("queued", 26, 25)]
    assert bar["label"] == "26 failed, 25 queued"
    stopped = [
        ChildJob(id=f"j_{n}", status="cancelled", stopped_by="stop_when" if n else "")
        for n in range(3)
    ]
    assert group_list.bar_of(stopped)["label"] == "1 cancelled, 2 not needed"
    assert group_list.bar_of([])["label"] == "no jobs"


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"name": "Mine", "metadata": {"name": "its"}}, "Mine"),
        ({"metadata": {"name": " Two \n lines "}}, "Two lines"),
        (
            {"metadata": {"scene": "shot_1", "panel_id": 3}, "summary": {"prompt": "a cat"}},
            "shot_1 · panel 3",
        ),
        ({"metadata": {"name": {"no": "text"}, "panel": 0}}, "panel 0"),
        (
            {"metadata": {"name": ""}, "summary": {"prompt": "a cat\n in a hat", "file": "x"}},
            "a cat in a hat",
        ),
        (
            {
                "summary": {
                    "prompt": "a lighthouse on a rock at dusk, seen from the sea in a storm of snow"
                }
            },
            "a lighthouse on a rock at dusk, seen from the sea in a …",
        ),
        ({"summary": {"file": "shots/a"}}, "a"),
        ({}, "jg_1"),
    ],
)
def test_a_group_is_called_by_its_name_metadata_prompt_or_file(
    fields: dict[str, Any], title: str
) -> None:
    columns = {
        f"{name}_json": json.dumps(fields[name])
        for name in ("metadata", "summary")
        if name in fields
    }
    assert JobGroup(id="jg_1", name=fields.get("name", ""), **columns).title == title


def names(client: Client, query: str) -> set[str]:
    page = client.get(f"/{query}")
    assert page.status_code == 200
    return {row["name"] for row in page.context["listing"]["rows"]}


def test_a_backend_that_was_left_out_is_one_however_often_it_was_named(client: Client) -> None:
    factories.backend()
    skipped = [{"backend_id": "gpu-9", "reason": "It is offline"}] * 5
    group = factories.submit(
        "gpu-1", skipped_backends=[*skipped, {**skipped[0], "backend_id": "gpu-8"}]
    )
    page = client.get(f"/groups/{group.id}").content.decode()
    assert "2 backends left out: 6 jobs fewer" in page
    assert "<li>gpu-9 (named 5 times): It is offline" in page
    assert "<li>gpu-8: It is offline" in page


@pytest.mark.parametrize(
    ("outputs", "offered"),
    [
        ({"images": []}, False),
        ({"images": [], "text": ["a poem"]}, False),
        ({"images": [{"filename": "a.png", "url": "http://gpu/a", "missing": True}]}, False),
        ({"images": [{"filename": "a.png", "url": "http://gpu/a"}]}, True),
    ],
)
def test_downloads_are_offered_where_there_are_files(
    client: Client, outputs: dict[str, Any], offered: bool
) -> None:
    group, _ = ended_page(client, end=factories.end(outputs=outputs))
    ChildJob.objects.update(starred=True)
    page = client.get(f"/groups/{group.id}").content.decode()
    assert [
        name in page for name in (">Download all</a>", "Contact sheet", "Download 1 starred")
    ] == [offered] * 3


def ended_page(
    client: Client, *backend_ids: str, end: AttemptResult, **fields: Any
) -> tuple[JobGroup, str]:
    runners.runner_register(name="runner", instance="x", version="0")
    fence = factories.online()
    group = factories.submit(*backend_ids, **fields)
    claimed = factories.begin(fence)
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=end)
    return group, client.get(f"/groups/{group.id}").content.decode()


def test_group_shows_when_it_is_deleted(client: Client, settings: Settings) -> None:
    factories.backend()
    group = factories.submit()
    ended = {"status": "cancelled", "completed_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
    for days, fields, starred, shown in (
        (0, {}, False, "by a purge only"),
        (30, {}, False, "30 d after its end"),
        (30, ended, False, "after 2026-01-31 00:00:00 UTC"),
        (30, {"retention_days": 7}, False, "after 2026-01-08 00:00:00 UTC"),
        (30, {}, True, "not while a job has a star"),
    ):
        settings.DIRECTOR_RETENTION_DAYS = days
        JobGroup.objects.update(id=group.id, **fields)
        ChildJob.objects.update(starred=starred)
        assert f"<dd data-clock>{shown}</dd>" in client.get(f"/groups/{group.id}").content.decode()
    assert "are deleted 30 d after their end." in client.get("/").content.decode()


def test_group_shows_that_the_rest_was_not_needed(client: Client) -> None:
    fence = factories.online()
    group = factories.submit(*["gpu-1"] * 3, stop_when={"completed": 1, "failed": 2})
    factories.finish(factories.claim(fence), fence)
    html = client.get(f"/groups/{group.id}").content.decode()
    assert "Stopped: 1 job completed or 2 jobs failed<" in html
    assert "· 2 not needed" in html
    assert ">Not needed</span></h2>" in html
    assert 'data-act="retry-group"' not in html


def test_group_with_partner_nodes_shows_that_it_is_not_retried(client: Client) -> None:
    factories.backend()
    group = factories.submit(max_attempts=3, uses_partner_nodes=True)
    html = client.get(f"/groups/{group.id}").content.decode()
    assert "it is not retried after an execution" in html


def test_page_of_a_job_has_its_card(client: Client) -> None:
    factories.backend()
    group = factories.submit(*["gpu-1"] * 130)
    last = group.children.get(position=129).id
    assert f'id="{last}"' in client.get(f"/groups/{group.id}?job={last}").content.decode()
    assert "Page 1 of 2" in client.get(f"/groups/{group.id}?job=j_unknown%00").content.decode()


def test_filter_shows_pages_of_some_jobs(client: Client) -> None:
    factories.backend()
    group = factories.submit(*["gpu-1"] * 260)
    jobs = ChildJob.objects.filter(group=group)
    jobs.filter(position__gte=131).update(status="failed", completed_at=now())
    jobs.filter(position__lt=2).update(starred=True)
    last = jobs.get(position=259).id
    for query, positions, pages in (
        ("show=failed&page=2", [*range(252, 261)], 2),
        (f"show=failed&job={last}", [*range(252, 261)], 2),
        ("show=starred", [1, 2], 1),
        ("show=running", [], 1),
        (f"show=starred&job={last}", [*range(241, 261)], 3),
        ("show=other&page=3", [*range(241, 261)], 3),
    ):
        shown = client.get(f"/groups/{group.id}?{query}").context["shown"]
        assert ([card["position"] for card in shown["cards"]], shown["pages"]) == (
            positions,
            pages,
        ), query


def test_page_shows_what_was_submitted_without_the_inputs_that_a_sweep_varies(
    client: Client,
) -> None:
    factories.backend()
    group = factories.submit()
    summary = {
        "prompt": "an owl " * 30,
        "model": "sdxl",
        "width": 1024,
        "height": 768,
        "steps": 20,
        "cfg": 7,
    }
    sweep = {"mode": "product", "axes": [{"input": "3.cfg", "values": [5, 7]}]}
    JobGroup.objects.update(summary_json=json.dumps(summary), sweep_json=json.dumps(sweep))
    page = client.get(f"/groups/{group.id}").content.decode()
    assert f"<summary>{summary['prompt']}</summary>" in page
    for text in (
        "Model</dt><dd>sdxl",
        "Size</dt><dd>1024 × 768",
        "Steps</dt><dd>20",
        "CFG</dt><dd>varied",
    ):
        assert text in page


def test_card_shows_that_outputs_were_reused(client: Client) -> None:
    _, page = ended_page(client, end=factories.end(execution={"outputs_reused": True}))
    assert ">outputs reused<" in page


def test_head_offers_a_retry_of_a_failed_job_while_the_group_runs(client: Client) -> None:
    _, page = ended_page(client, "gpu-1", "gpu-1", end=factories.end(AttemptState.ERROR))
    assert "Retry a failed job on its card, or all failed jobs after the group has ended" in page
    assert '1st in line for <span class="whole">gpu-1</span>.' in page


def test_a_card_says_in_words_what_an_error_means_before_what_comfyui_said(client: Client) -> None:
    failed = factories.end(
        AttemptState.ERROR, failure=FailureClass.OUT_OF_MEMORY, error_message="Allocation <b>"
    )
    _, page = ended_page(client, end=failed)
    stage = page[page.index("error-words") : page.index('class="acts"')]
    assert stage.index("or more GPU memory.") < stage.index("Allocation &lt;b&gt;")


def test_a_card_that_waits_to_be_tried_again_says_what_failed(client: Client) -> None:
    failed = factories.end(AttemptState.ERROR, failure=FailureClass.OUT_OF_MEMORY)
    _, page = ended_page(client, end=failed, max_attempts=3)
    assert ">Queued<" in page
    assert "1 failed attempt, out of memory" in page
    assert "on gpu-1 raised an error: CUDA out of memory" in page


def test_running_job_of_an_offline_backend_shows_since_when(client: Client) -> None:
    runners.runner_register(name="runner", instance="x", version="0")
    fence = factories.online()
    group = factories.submit()
    factories.begin(fence)
    Backend.objects.update(reachability="offline", unreachable_since=now())
    page = client.get(f"/groups/{group.id}").content.decode()
    assert '<span class="whole">gpu-1</span> has not been reachable since' in page
    assert "No estimate while gpu-1 is offline" in page


def test_backends_show_the_running_job_and_external_prompts(client: Client) -> None:
    fence = factories.online(queue_running=1, queue_foreign=2)
    group, claimed = factories.running(fence, metadata={"name": "At work"})
    for path in ("/backends", "/backends/gpu-1"):
        page = client.get(path).content.decode()
        assert f'/groups/{group.id}?job={claimed.child_id}#{claimed.child_id}"' in page
        assert f'<progress class="thin" data-job="{claimed.child_id}"' in page
        assert "2 external" in page


def test_page_of_a_backend_lists_what_it_cannot_run(client: Client) -> None:
    factories.online()
    group = factories.submit_to_pool(1, metadata={"name": "Posters <1>"})
    JobGroup.objects.update(workflow_digest="1")
    moment = now()
    fields: dict[str, Any] = {"kind": "missing", "since": moment, "last_at": moment}
    rows = [
        Exclusion.objects.create(
            backend_id="gpu-1", workflow_digest=str(number), reason=f"lacks <{number}>", **fields
        )
        for number in range(4)
    ]
    page = client.get("/backends/gpu-1").content.decode()
    assert "<li><span>Cannot run this workflow: lacks &lt;0&gt;." in page
    assert (
        f'/groups/{group.id}" title="The newest group with this workflow">Posters &lt;1&gt;</a>: '
        "Cannot run" in page
    )
    assert f'data-act="lift" data-exclusion="{rows[3].id}"' in page
    assert "Cannot run 4 workflows" in client.get("/backends").content.decode()
    Exclusion.objects.all().delete()
    assert "None is known." in client.get("/backends/gpu-1").content.decode()


def test_page_of_a_backend_shows_what_it_did_and_failed_at(client: Client) -> None:
    fence = factories.online()
    factories.online("gpu-2")
    group = factories.submit(*["gpu-1"] * 25, metadata={"name": "Shot <1>"})
    failed = factories.end(AttemptState.ERROR, failure=FailureClass.OUT_OF_MEMORY)
    attempts.attempt_ended(attempt_id=factories.begin(fence).pk, fence=fence, end=failed)
    assert "1 Out of memory" in texts(client, "/backends/gpu-1")
    assert "Raised an error out of memory" in texts(client, "/backends/gpu-1")
    assert "No failures." in texts(client, "/backends/gpu-2")
    for path, count in (
        ("/failures?backend=gpu-1", 1),
        ("/failures?backend=gpu-2", 0),
        ("/failures?backend=%00", 1),
    ):
        assert len(client.get(path).context["shown"]["causes"]) == count
    for _ in range(24):
        factories.finish(factories.begin(fence), fence)
    page = client.get("/backends/gpu-1")
    assert [one.child.position for one in page.context["shown"]["attempts"]] == list(
        range(24, 4, -1)
    )
    assert page.content.decode().count(f"/groups/{group.id}?job=") == 20
    assert ">Shot &lt;1&gt;</a>" in page.content.decode()


def test_page_of_a_backend_shows_its_last_hold_and_its_quarantines(client: Client) -> None:
    factories.online(comfyui_version="0.3.44")
    holds.backend_quarantine(backend_id="gpu-1", reason="it smokes", by="bob")
    page = texts(client, "/backends/gpu-1")
    assert "By bob. it smokes" in page
    assert "It is too old (before 0.3.45): it gets no jobs." in page
    holds.backend_release(backend_id="gpu-1")
    holds.backend_hold(backend_id="gpu-1", hold=Hold.PAUSE, reason="the fan", by="ann")
    page = texts(client, "/backends/gpu-1")
    assert "Pause by ann, just now : the fan" in page
    assert "Quarantines since the last success 1; on probation" in page


def texts(client: Client, path: str) -> str:
    """Return the text of a page without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(path).content.decode()))


def test_table_of_backends_is_sorted_by_any_column(client: Client) -> None:
    for number, version in ((10, "0.9.0"), (9, "0.10.0"), (1, "")):
        factories.online(f"gpu-{number}", vram=number, comfyui_version=version)
    holds.backend_hold(backend_id="gpu-10", hold=Hold.PAUSE)

    def order(sort: str) -> list[str]:
        return [
            one["id"].removeprefix("gpu-")
            for one in client.get(f"/backends?sort={sort}").context["listing"]["rows"]
        ]

    assert order("") == order("nonsense") == order("status") == ["10", "1", "9"], (
        "problems first, then by id"
    )
    assert order("name") == ["1", "9", "10"]
    assert order("-name") == ["10", "9", "1"]
    assert order("version") == ["1", "10", "9"]
    sorts = client.get("/backends").context["listing"]["columns"]
    assert all(len(order(one["next"])) == 3 for one in sorts)


@pytest.mark.parametrize(
    ("query", "is_shown"),
    [
        ("kind=image&size=1x&since=2026-02-31&until=1&cursor=x&starred=", True),
        ("since=2020-01-01&until=2099-01-01&backend=gpu-1&kind=nonsense", True),
        ("until=2020-01-01", False),
        ("kind=video", False),
        ("starred=yes", False),
        ("size=64x48", False),
        ("backend=gpu-2", False),
    ],
)
def test_gallery_has_the_filters_of_its_url_and_ignores_invalid_ones(
    client: Client, query: str, is_shown: bool
) -> None:
    fence = factories.online()
    group, claimed = factories.running(fence, name="Owl")
    factories.finish(claimed, fence)
    for path in ("/gallery", "/parts/gallery"):
        html = client.get(f"{path}?{query}").content.decode()
        assert (f'href="/groups/{group.pk}?job=' in html) is is_shown
    assert ("No matching outputs" in html) is not is_shown


def test_number_of_queries_does_not_depend_on_the_number_of_backends(client: Client) -> None:
    counts = []
    for number in range(4):
        fence = factories.online(f"gpu-{number}", tags=["big"])
        factories.submit(f"gpu-{number}")
        factories.begin(fence)
        kept_figures.forget()
        with CaptureQueriesContext(connection) as queries:
            client.get("/backends")
        counts.append(len(queries))
    assert counts[0] == counts[3]


def test_page_of_failures_without_a_failure(client: Client) -> None:
    assert "No failures in the last day." in client.get("/failures").content.decode()


def test_filters_in_the_url_narrow_the_list(client: Client) -> None:
    factories.backend("gpu-1")
    factories.backend("gpu-2")
    factories.submit("gpu-1", metadata={"name": "One"}, submitter="ann")
    two = factories.submit("gpu-2", metadata={"name": "Two 50%"})
    cancellation.group_cancel(group_id=two.id)
    assert names(client, "") == {"One", "Two 50%"}
    assert names(client, "?state=cancelled") == {"Two 50%"}
    assert names(client, "?backend=gpu-1") == {"One"}
    assert names(client, "?text=50%25") == {"Two 50%"}
    assert names(client, f"?text={two.id[3:9]}") == {"Two 50%"}
    assert names(client, "?submitter=ann") == {"One"}
    assert names(client, "?hide=finished") == {"One"}
    JobGroup.objects.filter(pk=two.pk).update(
        created_at=dt.datetime(2026, 3, 4, 23, 59, tzinfo=dt.UTC)
    )
    assert names(client, "?since=2026-03-05") == {"One"}
    assert names(client, "?since=2026-03-04&until=2026-03-04") == {"Two 50%"}
    assert names(client, "?until=2026-03-03") == set()


@pytest.mark.parametrize(
    "query",
    [
        "?state=%00",
        "?before=x",
        "?text=%00",
        "?since=2026-13-01",
        "?until=yesterday",
        "?before=2026-13-01T00:00:00.000Z_jg_0123456789ab",
        "?page=-1",
    ],
)
def test_a_query_that_makes_no_sense_counts_as_left_out(client: Client, query: str) -> None:
    factories.backend()
    factories.submit(metadata={"name": "One"})
    assert names(client, query) == {"One"}


def test_older_pages_follow_without_a_gap(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PAGE_SIZE", 2)
    factories.backend()
    made = {factories.submit(metadata={"name": f"G{n}"}).id for n in range(5)}
    seen: list[str] = []
    query = ""
    for _ in range(3):
        board = client.get(f"/?{query}").context["listing"]
        seen += [row["id"] for row in board["rows"]]
        query = board["older"]
    assert query == ""
    assert len(seen) == 5
    assert set(seen) == made


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/groups/jg_000000000000", 404),
        ("/groups/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 404),
        ("/groups/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 404),
        ("/groups/a%2Fb", 404),
        ("/parts/groups/jg_000000000000", 404),
        ("/groups/jg_000000000000/parts/head", 404),
        ("/groups/jg_000000000000/parts/cards/j_0", 404),
        ("/nowhere", 404),
        ("/docs/settings.md", 404),
        ("/docs/nowhere", 404),
        ("/backends/gone.example", 404),
        ("/backends/gone/parts/models", 404),
        ("/submit?from=jg_000000000000&seed=x", 200),
        ("/submit?from=%00&seed=%00&job=%00", 200),
        ("/assets?cursor=%00", 200),
    ],
)
def test_what_is_not_there_is_no_defect(client: Client, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")


def test_links_between_documents_lead_to_their_headings(client: Client) -> None:
    pages = {name: client.get(f"/docs/{name}").content.decode() for name in documents.titles()}
    assert client.get("/docs/").content.decode() == pages["first-pictures"]
    for name, page in pages.items():
        for other, anchor in re.findall(
            r'href="(?:/docs/([a-z0-9-]+))?(?:#([^"]+))?"', page.partition("<article")[2]
        ):
            assert not anchor or f'id="{anchor}"' in pages[other or name], (name, other, anchor)


def test_pictures_of_the_guide_are_served_and_small(client: Client) -> None:
    pictures = re.findall(r'<img src="([^"]+)"', client.get("/docs/pages").content.decode())
    assert len(pictures) >= 10
    for picture in pictures:
        answer = client.get(f"/docs/{picture}")
        assert answer.headers["Content-Type"] == "image/webp"
        assert len(answer.content) <= 100_000
    for name in ("nowhere", "x" * 300):
        assert client.get(f"/docs/pictures/{name}.webp").status_code == 404


def test_without_a_backend_the_first_page_says_how_to_add_one(
    client: Client, settings: Settings
) -> None:
    for discovers in (True, False):
        settings.DIRECTOR_DISCOVER = discovers
        page = client.get("/").content.decode()
        assert "No ComfyUI found" in page
        assert ("adds it by itself" in page) is discovers
    factories.backend()
    assert "No groups yet" in client.get("/").content.decode()


def test_retry_of_a_card_speaks_of_other_backends_if_the_policy_allows_them(client: Client) -> None:
    fence = factories.online()
    for policy in RetryScope:
        group, attempt = factories.running(fence, retry_elsewhere=policy)
        factories.fail(attempt, fence)
        job = factories.only(group).id
        for path in ("", f"/parts/cards/{job}"):
            page = client.get(f"/groups/{group.id}{path}").content.decode()
            assert ("on another backend if" in page) is (policy is not RetryScope.NEVER)


@pytest.mark.parametrize("path", ["/", "/groups/jg_1", "/parts/backends", "/sign-in"])
def test_under_a_strange_name_a_page_says_which_setting_it_is(path: str) -> None:
    answer = Client(headers={"host": "render.studio:9820"}).get(path)
    assert answer.status_code == 400
    text = answer.content.decode()
    assert "DIRECTOR_ALLOWED_HOSTS=render.studio</code>" in text
    assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize("host", ["<b>x</b>", "a b", "", "x" * 300, 'a"onload="x'])
def test_what_is_no_name_at_all_is_not_repeated(host: str) -> None:
    answer = Client(headers={"host": host}).get("/")
    text = answer.content.decode()
    assert answer.status_code == 400
    assert "DIRECTOR_ALLOWED_HOSTS=the-name</code>" in text
    assert host == "" or host not in text


def test_pages_change_nothing(client: Client) -> None:
    for path in ("/", "/backends", "/submit", "/parts/backends"):
        assert client.post(path).status_code in (403, 405)


def test_repeating_a_group_with_one_seed_takes_its_backend_alone(client: Client) -> None:
    factories.backend("gpu-1")
    factories.backend("gpu-2")
    made = factories.submit("gpu-1", "gpu-2", seed_strategy="sequential", base_seed=5)
    said = client.get(f"/submit?from={made.id}&seed=6").context["source"]
    assert (said["backend_ids"], said["base_seed"]) == (["gpu-2"], 6)
    said = client.get(f"/submit?from={made.id}").context["source"]
    assert (said["backend_ids"], said["base_seed"]) == (["gpu-1", "gpu-2"], None)


def test_a_group_opens_in_the_editor_where_there_is_one(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.online()
    group = factories.submit()
    page, link = f"/groups/{group.id}", f"/groups/{group.id}/editor"
    assert "Open in the editor" not in client.get(page).content.decode()
    missing = client.get(link)
    assert (missing.status_code, b"comfyui-frontend-package" in missing.content) == (404, True)
    settings.DIRECTOR_COMFYUI_PORT = 9821
    monkeypatch.setattr(editor, "_folder", lambda _package, _name: Path())
    address = f"/?template={group.id}&source=director"
    opened = client.get(link, headers={"host": "localhost:9820"})
    assert opened["Location"] == f"http://localhost:9821{address}"
    settings.DIRECTOR_COMFYUI_URL = "https://comfy.studio.example"
    html = escape(f"https://comfy.studio.example{address}")
    assert f'href="{html}" target="_blank"' in client.get(page).content.decode()
    assert client.get("/groups/jg_000000000000/editor").status_code == 404


def test_the_id_of_a_program_s_prompt_finds_its_group(client: Client) -> None:
    factories.online()
    prompt_id, group = str(uuid.uuid4()), factories.submit()
    ListenerPrompt.objects.create(
        group=group, owner="x", prompt_id=prompt_id, digest="", created_at=now()
    )
    assert group.id in client.get(f"/?text={prompt_id}").content.decode()
    assert group.id not in client.get(f"/?text={uuid.uuid4()}").content.decode()
