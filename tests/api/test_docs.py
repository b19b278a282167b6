import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.urls import get_resolver
from pytest_django import Settings

from backends.models import Backend
from director.web.errors import _PLAIN
from jobgroups.errors import JobGroupsError
from jobgroups.queries import backends
from jobgroups.workflow import ALIASES
from tests.api.conftest import Api

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


@pytest.mark.django_db(transaction=True)
def test_examples_of_the_docs_have_all_fields(api: Api, farm: list[str]) -> None:
    def example(field: str) -> Any:
        return next(block for block in blocks if block.get(field) is not None)

    found = [json.loads(b) for b in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    blocks = [block for block in found if "can_run" not in block]
    row = Backend.objects.get(pk="gpu-1")
    assert list(example("backends")["backends"][0]) == list(backends.serialize_backend(row))
    assert list(example("status_since")) == list(backends.serialize_backend_status(row))
    made = api.submit("gpu-1", "nobody")
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    for field, shown in (("skipped_backends", made), ("completed_count", status)):
        assert list(example(field)) == list(shown)
        assert list(example(field)["child_jobs"][0]) == list(shown["child_jobs"][0])


def test_limits_of_the_docs_are_those_of_the_settings(settings: Settings) -> None:
    limits = _section("Limits")
    assert f"{settings.DIRECTOR_MAX_BODY_BYTES // 2**20} MiB" in limits
    assert f"{settings.DIRECTOR_MAX_CHILDREN:,}" in limits
    assert f"{settings.DIRECTOR_MAX_METADATA_BYTES // 2**10} KiB" in limits
