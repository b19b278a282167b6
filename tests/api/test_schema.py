"""The OpenAPI document. All tests of the API compare the answers that they get with it:
``tests.harness.contract``.
"""

import inspect
import re
from typing import Any

import pytest
import yaml

from director.client.events import BY_TYPE
from director.security.csp import POLICY
from docs import schema
from jobgroups.domain.shapes import events
from jobgroups.events import log
from tests.api.conftest import Api, play, play_to_the_end
from tests.harness import contract
from tests.harness.contract import problems

DOCUMENT = contract.document()
OPERATIONS = {
    f"{method.upper()} {path}": one
    for path, methods in DOCUMENT["paths"].items()
    for method, one in methods.items()
}

#: Of these the page has some fields elsewhere.
SHORTENED = (
    "GET /api/job-groups",
    "GET /api/outputs",
    "GET /api/job-groups/{group_id}/jobs/{job_id}",
)


@pytest.fixture
def group(api: Api, farm: list[str]) -> str:
    """A group whose jobs completed, failed, run and wait."""
    group = api.submit(*farm, "gpu-3", idempotency_key="key")
    play_to_the_end("gpu-1")
    play_to_the_end("gpu-2", state=schema.AttemptState.ERROR)
    play("gpu-3")
    return f"/api/job-groups/{group['job_group_id']}"


@pytest.mark.django_db(transaction=True)
def test_answers_have_the_fields_of_the_document(
    api: Api, group: str, reading_threads: None
) -> None:
    jobs = api.get(group).json()["child_jobs"]
    assert [one["status"] for one in jobs] == ["completed", "failed", "running", "queued"]
    for path in ("", "?limit=2", "?children=0", "/workflow", "/events", "/delete", "/outputs/x"):
        api.get(f"{group}{path}")
    for one in jobs:
        job = f"{group}/jobs/{one['job_id']}"
        for path in (job, f"{job}/provenance.json"):
            assert api.get(path).status_code == 200
    boundary = "multipart/form-data; boundary=b"
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nabc\r\n--b--\r\n'
    assert api.post("/api/assets", form, content_type=boundary).status_code == 201
    for path in (
        "job-groups",
        "backends",
        "assets",
        "backends/gpu-1/status",
        "failures",
        "seeds",
        "health",
    ):
        assert api.get(f"/api/{path}").status_code in (200, 503)


def test_a_field_that_only_the_answer_or_the_document_has_is_found() -> None:
    of_job = {"$ref": "#/components/schemas/Child"}
    answer = OPERATIONS["GET /api/job-groups/{group_id}"]["responses"]["200"]["content"][
        "application/json"
    ]
    job = answer["example"]["child_jobs"][0]
    assert problems(of_job, job) == []
    assert problems(of_job, {**job, "new": 1})
    for name in job:
        assert problems(of_job, {key: value for key, value in job.items() if key != name}), name


def test_every_row_of_the_table_is_an_operation() -> None:
    assert set(schema._TABLE["operations"]) == set(OPERATIONS)


def test_every_type_of_the_log_is_described() -> None:
    """The tests of the sockets compare each frame that they receive with its description."""
    source = inspect.getsource(log)
    named = set(re.findall(r"shapes\.((?:Group|Child)\w+)", source)) - {"ChildEvent", "ChildResult"}
    made = {events.type_of(getattr(events, name)) for name in named} | set(
        re.findall(r'"(child_[a-z]+)"', source)
    )
    listed = DOCUMENT["components"]["schemas"]["EventPage"]["properties"]["events"]["items"][
        "anyOf"
    ]
    of_rest = {one["$ref"].rpartition("/")[2] for one in listed}
    assert {BY_TYPE[name].__name__ for name in made} == of_rest
    of_stream = set(contract.document("asyncapi")["channels"]["job-group"]["messages"])
    assert of_stream - made == {
        "initial_state",
        "child_progress",
        "child_preview",
        "error",
        "pong",
        "message",
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_examples_have_the_fields_of_their_schemas(name: str) -> None:
    request = OPERATIONS[name].get("requestBody", {})
    for one in (request, *OPERATIONS[name]["responses"].values()):
        media = one.get("content", {}).get("application/json", {})
        if "example" in media:
            found = problems(media["schema"], media["example"])
            assert [
                text
                for text in found
                if name not in SHORTENED or "is a required property" not in text
            ] == []


def test_document_is_served_as_yaml_and_json(api: Api) -> None:
    text = api.get("/api/schema")
    assert text.headers["Content-Type"] == "application/yaml"
    assert (
        yaml.load(text.content, yaml.CSafeLoader)
        == DOCUMENT
        == api.get("/api/schema?format=json").json()
    )


@pytest.mark.django_db
def test_page_of_the_document_loads_local_files_only(api: Api, settings: Any) -> None:
    page = api.get("/api/docs")
    policy = page.headers["Content-Security-Policy"]
    assert policy.split(" 'sha256")[0] in POLICY
    assert "unsafe" not in policy
    assert b"//" not in page.content.replace(b"<!doctype html>", b"")
    settings.DIRECTOR_TOKEN = "correct-horse-battery"
    assert api.get("/api/docs").headers["Location"] == "/sign-in?next=/api/docs"
