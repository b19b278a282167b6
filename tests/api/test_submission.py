"""POST /api/job-group, field by field."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.models import ChildJob, JobGroup
from jobgroups.workflow.seeds import MAX_SEED
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db

NOT_AN_OBJECT: list[Any] = ["text", "", 3, 3.5, True, [], ["a"], False, 0]
NOT_A_STRING_LIST: list[Any] = ["gpu-1", 3, True, {}, {"0": "gpu-1"}, [1], [None], [["a"]], [""]]
NOT_AN_INTEGER: list[Any] = ["300", 300.0, 300.5, True, False, [], {}, [300], "soon", ""]


def _wrong(api: Api, **fields: Any) -> dict[str, str]:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], **fields}
    return wrong_fields(api.post(PATH, body))


@pytest.mark.parametrize("field", ["workflow_json", "parameters", "metadata"])
@pytest.mark.parametrize("value", NOT_AN_OBJECT, ids=repr)
def test_an_object_must_be_one(api: Api, field: str, value: Any) -> None:
    assert list(_wrong(api, **{field: value})) == [field]


@pytest.mark.parametrize("field", ["backend_ids", "required_capabilities"])
@pytest.mark.parametrize("value", NOT_A_STRING_LIST, ids=repr)
def test_a_list_of_strings_must_be_one(api: Api, field: str, value: Any) -> None:
    assert next(iter(_wrong(api, **{field: value}))).split(".")[0] == field


@pytest.mark.parametrize("field", ["timeout_seconds", "base_seed"])
@pytest.mark.parametrize("value", NOT_AN_INTEGER, ids=repr)
def test_an_integer_is_not_a_text_a_float_or_a_boolean(api: Api, field: str, value: Any) -> None:
    assert list(_wrong(api, **{field: value})) == [field]


@pytest.mark.parametrize("value", ["", "Random", "unknown", 1, True, [], {}, ["random"]], ids=repr)
def test_an_unknown_strategy_is_refused_with_those_there_are(api: Api, value: Any) -> None:
    said = _wrong(api, seed_strategy=value)
    assert said == {"seed_strategy": "Must be one of random, sequential, fibonacci, golden_ratio."}


@pytest.mark.parametrize("value", [29, 3601, 0, -1, 10**30])
def test_a_timeout_outside_30_to_3600_is_refused(api: Api, value: int) -> None:
    assert _wrong(api, timeout_seconds=value) == {
        "timeout_seconds": "Must be an integer from 30 to 3600."
    }


@pytest.mark.parametrize("value", [30, 3600])
def test_a_timeout_of_30_or_3600_is_taken(api: Api, farm: list[str], value: int) -> None:
    api.submit("gpu-1", timeout_seconds=value)
    assert JobGroup.objects.get().timeout_seconds == value


@pytest.mark.parametrize("value", [-1, MAX_SEED + 1, 2**64, -(2**63)])
def test_a_base_seed_that_some_clients_cannot_read_is_refused_with_the_reason(
    api: Api, value: int
) -> None:
    said = _wrong(api, base_seed=value)["base_seed"]
    assert str(MAX_SEED) in said
    assert "2⁵³−1" in said


@pytest.mark.parametrize("value", [0, MAX_SEED])
def test_the_first_child_has_the_base_seed(api: Api, farm: list[str], value: int) -> None:
    made = api.submit("gpu-1", "gpu-2", base_seed=value)
    assert made["child_jobs"][0]["seed"] == value


@pytest.mark.parametrize("field", ["workflow_json", "backend_ids"])
def test_a_required_field_that_is_missing_or_null_is_named(api: Api, field: str) -> None:
    body: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    del body[field]
    assert wrong_fields(api.post(PATH, body)) == {field: "Is required."}
    assert wrong_fields(api.post(PATH, {**body, field: None})) == {field: "Is required."}


def test_an_optional_field_that_is_null_counts_as_left_out(api: Api, farm: list[str]) -> None:
    optional = ["parameters", "seed_strategy", "base_seed", "metadata", "timeout_seconds"]
    api.submit("gpu-1", **dict.fromkeys([*optional, "required_capabilities"]))
    group = JobGroup.objects.get()
    assert (group.timeout_seconds, group.seed_strategy) == (300, "random")


def test_an_empty_list_of_backends_is_refused(api: Api) -> None:
    assert _wrong(api, backend_ids=[]) == {"backend_ids": "Must have at least one entry."}


def test_an_entry_too_long_to_be_an_id_is_refused(api: Api) -> None:
    assert list(_wrong(api, backend_ids=["gpu-1", "x" * 201])) == ["backend_ids.1"]


def test_1001_backends_are_too_many_and_1000_are_not(api: Api, farm: list[str]) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"] * 1001}
    assert list(wrong_fields(api.post(PATH, body), "too_many_children")) == ["backend_ids"]
    assert JobGroup.objects.count() == 0
    assert len(api.submit(*["gpu-1"] * 1000)["child_jobs"]) == 1000
    assert ChildJob.objects.values("seed").distinct().count() == 1000


def test_the_limit_of_children_is_a_setting(api: Api, settings: Settings) -> None:
    settings.DIRECTOR_MAX_CHILDREN = 2
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"] * 3}
    assert "at most 2" in wrong_fields(api.post(PATH, body), "too_many_children")["backend_ids"]


def test_metadata_of_20_kb_is_refused_and_16_kib_is_taken(api: Api, farm: list[str]) -> None:
    assert list(_wrong(api, metadata={"note": "x" * 20_000})) == ["metadata"]
    fits = {"note": "x" * (16 * 1024 - len('{"note":""}'))}
    api.submit("gpu-1", metadata=fits)
    assert list(_wrong(api, metadata={"note": fits["note"] + "x"})) == ["metadata"]


def test_metadata_is_measured_in_bytes_not_characters(api: Api) -> None:
    assert list(_wrong(api, metadata={"note": "ü" * 10_000})) == ["metadata"]


def test_every_wrong_field_is_listed_at_once(api: Api) -> None:
    wrong = {
        "workflow_json": [],
        "backend_ids": "gpu-1",
        "parameters": 3,
        "seed_strategy": "x",
        "base_seed": -1,
        "metadata": "m",
        "timeout_seconds": "soon",
        "required_capabilities": {},
    }
    answer = api.post(PATH, wrong, idempotency_key="")
    assert set(wrong_fields(answer)) == {*wrong, "Idempotency-Key"}
    assert "(8 more in errors.)" in answer.json()["detail"]


def test_a_workflow_in_the_editors_format_is_refused_with_what_to_do(api: Api) -> None:
    editor = {"last_node_id": 9, "nodes": [{"id": 3, "type": "KSampler"}], "links": []}
    said = _wrong(api, workflow_json=editor)
    assert "Save (API format)" in said["workflow_json"]


def test_a_request_to_comfyui_is_refused_with_what_to_send(api: Api, farm: list[str]) -> None:
    said = _wrong(api, workflow_json={"prompt": GRAPH, "client_id": "abc"})
    assert 'what is inside "prompt"' in said["workflow_json"]
    node_of_that_id = {"prompt": GRAPH["3"]}
    body = {"workflow_json": node_of_that_id, "backend_ids": ["gpu-1"]}
    assert api.post("/api/job-group", body).status_code == 201


def test_what_a_parameter_is_ignored_for_is_said_with_its_name(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", parameters={"3.": 1, "seed": 7})
    assert made["warnings"] == [
        'The parameter "3." is ignored: it matches no input of the workflow.',
        'The parameter "seed" is ignored: every job has a seed of its own;'
        " address one node to fix its seed.",
    ]


@pytest.mark.parametrize(
    ("graph", "field"),
    [
        ({}, "workflow_json"),
        ({"3": {"class_type": "KSampler"}}, "workflow_json.3.inputs"),
        ({"3": {"class_type": "KSampler", "inputs": []}}, "workflow_json.3.inputs"),
        ({"3": {"inputs": {}}}, "workflow_json.3.class_type"),
        ({"3": {"class_type": 7, "inputs": {}}}, "workflow_json.3.class_type"),
        ({"3": "KSampler"}, "workflow_json.3"),
    ],
)
def test_what_is_no_graph_of_nodes_is_refused(api: Api, graph: Any, field: str) -> None:
    assert list(_wrong(api, workflow_json=graph)) == [field]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"steps": "20"}, "parameters.steps"),
        ({"steps": 20.5}, "parameters.steps"),
        ({"steps": True}, "parameters.steps"),
        ({"3.cfg": "seven"}, "parameters.3.cfg"),
        ({"3": {"steps": None}}, "parameters.3.steps"),
    ],
)
def test_a_parameter_that_does_not_fit_the_workflow_is_refused(
    api: Api, farm: list[str], parameters: Any, field: str
) -> None:
    assert list(_wrong(api, parameters=parameters)) == [field]
    assert JobGroup.objects.count() == 0


def test_the_form_is_judged_before_the_runner_and_the_backends(api: Api) -> None:
    """There is neither a runner nor a backend here, and the client hears of its own mistake."""
    assert list(_wrong(api, parameters={"steps": "x"})) == ["parameters.steps"]


def test_a_field_that_is_not_known_is_ignored_with_a_warning(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", panel=3)
    assert made["warnings"] == ["The field panel is not known and was ignored."]
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["warnings"] == made["warnings"]


def test_the_references_example_is_accepted_as_printed(
    api: Api, runner: Any, make_backend: Made
) -> None:
    ids = ["localhost_8188", "192.168.100.6_8188", "192.168.100.7_8188"]
    for one in ids:
        make_backend(one)
    body = {
        "workflow_json": {
            "3": {
                "class_type": "KSampler",
                "inputs": {
                    "seed": 42,
                    "steps": 20,
                    "cfg": 7.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                    "positive": "A cinematic cityscape at night",
                    "negative": "blurry, low quality",
                    "latent_image": {"filename": "batch_0"},
                },
            }
        },
        "parameters": {"steps": 20, "cfg_scale": 7.0},
        "backend_ids": ids,
        "seed_strategy": "random",
        "base_seed": 42,
        "metadata": {"panel_id": 3, "scene": "shot_001"},
        "timeout_seconds": 300,
    }
    answer = api.post(PATH, body)
    assert answer.status_code == 201
    made = answer.json()
    assert [child["backend_id"] for child in made["child_jobs"]] == ids
    assert made["child_jobs"][0]["seed"] == 42
    assert {child["status"] for child in made["child_jobs"]} == {"queued"}
    assert made["status"] == "running"
    assert made["warnings"] == []
    assert made["skipped_backends"] == []


@pytest.mark.parametrize("key", ["", " ", "a\tb", "ü", "x" * 256], ids=repr)
def test_an_idempotency_key_that_is_not_plain_text_is_refused(api: Api, key: str) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    assert list(wrong_fields(api.post(PATH, body, idempotency_key=key))) == ["Idempotency-Key"]


def test_only_post_is_taken(api: Api) -> None:
    answer = api.get(PATH)
    assert error_of(answer, 405, "method_not_allowed")["detail"] == "This path takes POST."
    assert answer.headers["Allow"] == "POST, OPTIONS"
