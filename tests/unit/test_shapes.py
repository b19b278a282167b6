"""Answers are made of their shapes: the texts pin names, order, nulls and types."""

import datetime as dt
import json
from dataclasses import fields
from typing import Any

import pytest

from backends.models import FoundBackend
from director import client
from jobgroups.domain.shapes import assets, backends, events, groups, webhooks
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.serializers import (
    serialize_attempt,
    serialize_child,
    serialize_group,
    shape,
    to_json,
)

MOMENT = dt.datetime(2026, 2, 1, 7, 1, 30, 500_000, tzinfo=dt.UTC)
TEXT = "2026-02-01T07:01:30.500Z"


def test_job_without_a_result_has_every_field_in_order() -> None:
    row = ChildJob(
        id="j_1", backend_id="gpu-1", seed=7, queued_at=MOMENT, status="queued", progress=33.336
    )
    assert to_json(serialize_child(row, "waits", 4.26)) == (
        '{"job_id":"j_1","backend_id":"gpu-1","seed":7,"status":"queued","progress":33.34,"current_step":null,'
        '"outputs":null,"error_message":null,"error_type":null,"failure_class":null,'
        f'"queued_at":"{TEXT}","started_at":null,"completed_at":null,"attempts":0,"waiting_reason":"waits",'
        '"eta_seconds":4.3,"error_details":null,"warnings":[],"outputs_reused":false,"starred":false,'
        '"variation":null,"metadata":null,"stopped_by":null}'
    )


def test_job_keeps_the_json_of_its_columns_and_texts_of_nullable_ones() -> None:
    big = 10**30
    row = ChildJob(
        status="failed",
        queued_at=MOMENT,
        completed_at=MOMENT,
        error_message="",
        failure_class="node_error",
        metadata_json=f'{{"b":{big},"a":"é"}}',
        warnings_json='["w"]',
    )
    answer = serialize_child(row)
    assert (answer["error_message"], answer["failure_class"]) == ("", "node_error")
    assert to_json(answer["metadata"]) == f'{{"b":{big},"a":"é"}}'
    assert (answer["warnings"], answer["completed_at"]) == (["w"], TEXT)


def test_group_and_attempt_have_every_field_of_their_shapes() -> None:
    group = serialize_group(
        JobGroup(id="jg_1", created_at=MOMENT, total_count=1, base_seed=1, timeout_seconds=30)
    )
    attempt = serialize_attempt(
        Attempt(number=1, run=1, state="intent", created_at=MOMENT), left_running=""
    )
    for answer, kind in ((group, groups.GroupRow), (attempt, groups.Attempt)):
        assert list(answer) == [one.name for one in fields(kind) if one.name != "raw"]
    assert (group["title"], group["name"], group["submitter"], group["retry_elsewhere"]) == (
        "jg_1",
        None,
        None,
        False,
    )
    assert (attempt["stop_reason"], attempt["left_running"], attempt["charged"]) == (
        None,
        None,
        True,
    )


@pytest.mark.parametrize("given", [{}, {"created_at": MOMENT}])
def test_shape_with_one_or_no_field_of_the_row(given: dict[str, Any]) -> None:
    row = JobGroup(id="jg_1", created_at=MOMENT)
    answer = shape(
        events.GroupCreated,
        row,
        type="group_created",
        seq=1,
        run=1,
        job_group_id="jg_1",
        total=1,
        **given,
    )
    assert answer["created_at"] == TEXT


def test_empty_text_of_a_column_without_null_is_null_if_the_field_may_be() -> None:
    row = FoundBackend(url="http://a:1", first_seen_at=MOMENT, last_seen_at=MOMENT)
    assert shape(backends.FoundAddress, row, ignored=False)["comfyui_version"] is None


def test_records_times_and_dates_are_json() -> None:
    moved = groups.MoveResult(job_group_id="jg_1", job_id="j_1", backend_id="gpu-1", moved=True)
    assert json.loads(to_json([moved])) == [
        {
            "job_group_id": "jg_1",
            "job_id": "j_1",
            "backend_id": "gpu-1",
            "moved": True,
            "removing_from": None,
        }
    ]
    assert to_json({"at": MOMENT, "on": MOMENT.date()}) == f'{{"at":"{TEXT}","on":"2026-02-01"}}'


def test_a_value_without_json_is_an_error() -> None:
    with pytest.raises(TypeError):
        to_json({"a": object()})


@pytest.mark.parametrize("module", [assets, backends, events, groups, webhooks])
def test_types_of_the_client_are_the_shapes(module: Any) -> None:
    own = {
        name: kind
        for name, kind in vars(module).items()
        if getattr(kind, "__module__", "") == module.__name__
    }
    for name, kind in own.items():
        shown = getattr(client, name, None)
        assert shown is None or issubclass(shown, kind), name
