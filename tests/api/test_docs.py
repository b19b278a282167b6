"""docs/api.md says what the code does: paths, aliases, error codes, examples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.urls import get_resolver
from pytest_django import Settings

from director.web.errors import _PLAIN
from jobgroups.errors import JobGroupsError
from jobgroups.queries import backends
from jobgroups.workflow import ALIASES
from tests.api.conftest import Api, Made

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")

#: Codes of statuses that nothing answers with yet, and of classes that only others derive from.
_UNUSED = {"not_acceptable", "unavailable", "error", "conflict"}


def _section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _codes(root: type[JobGroupsError]) -> set[str]:
    return {root.code}.union(*(_codes(one) for one in root.__subclasses__()))


def test_docs_describe_every_path_with_a_call() -> None:
    for pattern in get_resolver("jobgroups.api.urls").url_patterns:
        path = re.sub(r"<str:(\w+)>", lambda m: "{" + m[1] + "}", str(pattern.pattern))
        path = path.rstrip("/").replace("{group_id}", "{id}").replace("{backend_id}", "{id}")
        assert f"/api/{path}`" in TEXT
    headings = len(re.findall(r"^##+ `[A-Z]+ /api/", TEXT, re.MULTILINE))
    assert TEXT.count("curl ") == headings


def test_docs_list_every_alias_of_a_parameter() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (`.*`) \|$", _section("Parameters"), re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", text)) for name, text in listed} == ALIASES


def test_docs_list_every_error_code() -> None:
    first_cells = re.findall(r"^\| (`.*?`) \|", _section("Error codes"), re.MULTILINE)
    listed = {code for cell in first_cells for code in re.findall(r"`(\w+)`", cell)}
    known = _codes(JobGroupsError) | {code for code, _ in _PLAIN.values()}
    known |= {"origin_not_allowed", "database_unavailable", "sign_in_required"}
    assert listed == known - _UNUSED


def test_json_examples_of_the_docs_are_json() -> None:
    blocks = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) > 10
    for block in blocks:
        json.loads(block)


@pytest.mark.django_db
def test_backend_example_of_the_docs_has_all_fields(make_backend: Made) -> None:
    row = make_backend("gpu-1")
    blocks = [json.loads(b) for b in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    shown = next(block["backends"][0] for block in blocks if "backends" in block)
    assert list(shown) == list(backends.serialize_backend(row))
    status = next(block for block in blocks if block.get("status_since"))
    assert list(status) == list(backends.serialize_backend_status(row))


@pytest.mark.django_db
def test_response_examples_of_the_docs_have_all_fields(api: Api, farm: list[str]) -> None:
    blocks = [json.loads(b) for b in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    submitted = next(block for block in blocks if "skipped_backends" in block)
    made = api.submit("gpu-1", "nobody")
    assert list(submitted) == list(made)
    assert list(submitted["child_jobs"][0]) == list(made["child_jobs"][0])
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    shown = next(block for block in blocks if "completed_count" in block)
    assert list(shown) == list(status)
    assert list(shown["child_jobs"][0]) == list(status["child_jobs"][0])


def test_limits_of_the_docs_are_those_of_the_settings(settings: Settings) -> None:
    limits = _section("Limits")
    assert f"{settings.DIRECTOR_MAX_BODY_BYTES // 2**20} MiB" in limits
    assert f"{settings.DIRECTOR_MAX_CHILDREN:,}" in limits
    assert f"{settings.DIRECTOR_MAX_METADATA_BYTES // 2**10} KiB" in limits
