"""How a submission says what is done about failures: its three fields, their defaults, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from pytest_django import Settings

from tests.api.conftest import GRAPH, Api, wrong_fields

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db

KNOWN = (
    "node_or_model_missing, out_of_memory, cuda_fatal, node_error, unreachable, backend_lost,"
    " stalled, timeout, output_gone"
)


def wrong(api: Api, **fields: Any) -> dict[str, str]:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], **fields}
    return wrong_fields(api.post(PATH, body))


def shown(api: Api, **fields: Any) -> tuple[Any, Any, Any]:
    """Submit a group and return the three as its status shows them."""
    made = api.submit("gpu-1", **fields)
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    return status["max_attempts"], status["retry_elsewhere"], status["retry_on"]


@pytest.mark.parametrize("value", [0, 11, -1, 10**30, "2", 2.0, True, False, [], {}], ids=repr)
def test_attempts_are_an_integer_from_1_to_10(api: Api, value: Any) -> None:
    assert wrong(api, max_attempts=value) == {"max_attempts": "Must be an integer from 1 to 10."}


@pytest.mark.parametrize("value", [3, 0, 1.0, "", "never", "Group", "elsewhere", [], {}], ids=repr)
def test_elsewhere_is_a_switch_or_one_of_two_words(api: Api, value: Any) -> None:
    assert wrong(api, retry_elsewhere=value) == {
        "retry_elsewhere": 'Must be one of false, true, "group", "any".'
    }


@pytest.mark.parametrize("value", ["oom", "OUT_OF_MEMORY", "node error"])
def test_an_unknown_class_is_refused_with_those_there_are(api: Api, value: str) -> None:
    assert wrong(api, retry_on=["timeout", value]) == {
        "retry_on.1": f"Is no failure class; use some of {KNOWN}."
    }


@pytest.mark.parametrize("value", ["workflow_refused", "interrupted", "internal"])
def test_a_class_that_is_never_tried_again_is_refused_with_that(api: Api, value: str) -> None:
    assert wrong(api, retry_on=[value]) == {
        "retry_on.0": f"Is never tried again; use some of {KNOWN}."
    }


def test_an_empty_list_of_classes_is_refused(api: Api) -> None:
    assert wrong(api, retry_on=[]) == {
        "retry_on": "Must have at least one entry; leave it out for all of them."
    }


@pytest.mark.parametrize("value", ["timeout", 3, True, {}, [3], [["timeout"]], [""]], ids=repr)
def test_classes_are_a_list_of_names(api: Api, value: Any) -> None:
    assert next(iter(wrong(api, retry_on=value))).split(".")[0] == "retry_on"


@pytest.mark.parametrize(
    ("value", "told"),
    [(False, False), (True, "group"), ("group", "group"), ("any", "any"), (None, False)],
)
def test_where_a_child_may_go_is_shown_as_it_may_be_said(
    api: Api, farm: list[str], value: Any, told: Any
) -> None:
    assert shown(api, retry_elsewhere=value) == (1, told, None)


def test_classes_are_kept_once_each_in_the_taxonomys_order(api: Api, farm: list[str]) -> None:
    named = ["timeout", "out_of_memory", "timeout"]
    assert shown(api, max_attempts=10, retry_on=named) == (10, False, ["out_of_memory", "timeout"])


@pytest.mark.parametrize("value", ["fail", "accept", None])
def test_partial_outputs_are_shown_as_they_were_submitted(
    api: Api, farm: list[str], value: str | None
) -> None:
    made = api.submit("gpu-1", partial_outputs=value)
    path = f"/api/job-groups/{made['job_group_id']}"
    assert api.get(path).json()["partial_outputs"] == (value or "accept")


@pytest.mark.parametrize("value", ["Fail", "", True, 1, [], {}], ids=repr)
def test_partial_outputs_are_one_of_two_words(api: Api, value: Any) -> None:
    assert wrong(api, partial_outputs=value) == {"partial_outputs": "Must be one of accept, fail."}


def test_what_is_left_out_is_as_the_installation_says(
    api: Api, farm: list[str], settings: Settings
) -> None:
    assert shown(api) == (1, False, None)
    settings.DIRECTOR_MAX_ATTEMPTS = 4
    settings.DIRECTOR_RETRY_ELSEWHERE = "any"
    assert shown(api) == (4, "any", None)
    assert shown(api, max_attempts=1, retry_elsewhere=False) == (1, False, None)


def test_a_child_says_its_failure_class_or_null(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1")
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["child_jobs"][0]["failure_class"] is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DIRECTOR_MAX_ATTEMPTS", "11", "DIRECTOR_MAX_ATTEMPTS is 11"),
        ("DIRECTOR_RETRY_ELSEWHERE", "yes", "use one of 0, group, any"),
        ("DIRECTOR_RETRY_BACKOFF_SECONDS", "soon", "it must be a number"),
    ],
)
def test_an_installation_that_says_nonsense_is_told_so(name: str, value: str, said: str) -> None:
    code = "import django.conf; django.conf.settings.DEBUG"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "director.settings", name: value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr
