import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from backends.comfyui.outputs import plain_error
from jobgroups.domain import text
from jobgroups.domain.failures import TAXONOMY, FailureClass, class_of_error, class_of_refusal
from tests.contract.recording import load_events

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = json.loads((ROOT / "docs/failure_examples.json").read_text(encoding="utf-8"))
NODE_ERRORS = tomllib.loads(
    Path(__file__).with_name("node_errors.toml").read_text(encoding="utf-8")
)
REFUSED, MISSING = FailureClass.WORKFLOW_REFUSED, FailureClass.NODE_OR_MODEL_MISSING
MEMORY, FATAL = FailureClass.OUT_OF_MEMORY, FailureClass.CUDA_FATAL
RAISED = FailureClass.NODE_ERROR


def recorded_errors() -> list[dict[str, Any]]:
    """Return every ``execution_error`` of the recordings that ended its prompt."""
    frames = [
        event["frame"]
        for name in ("09_execution_error", "26_partial_outputs_then_error")
        for event in load_events(name)
        if isinstance(event.get("frame"), dict)
    ]
    return [frame["data"] for frame in frames if frame["type"] == "execution_error"]


def recorded_refusals() -> list[dict[str, Any]]:
    bodies = []
    for event in load_events("14_invalid_prompts"):
        body = event.get("body")
        if isinstance(body, str):
            try:
                body = json.loads(body)
            except ValueError:
                continue
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            bodies.append(body)
    return bodies


def refusal_class(body: dict[str, Any]) -> FailureClass:
    error = body["error"]
    return class_of_refusal(error["type"], error["message"], body["node_errors"])


def test_the_taxonomy_is_the_decided_one() -> None:
    rules = {
        one.value: (kind.retry.value, kind.counts_against_backend) for one, kind in TAXONOMY.items()
    }
    assert rules == {
        "workflow_refused": ("never", False),
        "node_or_model_missing": ("elsewhere", False),
        "out_of_memory": ("here", False),
        "cuda_fatal": ("elsewhere", True),
        "node_error": ("here", False),
        "unreachable": ("elsewhere", False),
        "backend_lost": ("here", True),
        "stalled": ("elsewhere", True),
        "timeout": ("elsewhere", False),
        "interrupted": ("never", False),
        "output_gone": ("here", False),
        "internal": ("never", False),
    }
    assert set(TAXONOMY) == set(FailureClass)
    assert text.failure_label("") == "failed"


def test_the_recorded_errors_are_told_apart() -> None:
    found = {
        (error["exception_type"], plain_error(error["exception_message"])[:18]): class_of_error(
            error["exception_type"], plain_error(error["exception_message"])
        )
        for error in recorded_errors()
    }
    assert found[("torch.OutOfMemoryError", "CUDA out of memory")] is MEMORY
    assert found[("RuntimeError", "CUDA out of memory")] is MEMORY
    assert found[("ValueError", "bad value on purpo")] is RAISED
    assert len(found) >= 3


@pytest.mark.parametrize(
    ("exception_type", "message", "expected"),
    [
        (*error, FailureClass(failure))
        for failure, errors in NODE_ERRORS.items()
        for error in errors
    ],
)
def test_errors_are_told_apart(exception_type: str, message: str, expected: FailureClass) -> None:
    assert class_of_error(exception_type, message) is expected


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (failure, example["seen"])
        for failure in (MEMORY, FATAL, RAISED, MISSING)
        for example in EXAMPLES[failure]
        if example["seen"].split(":")[0].endswith("Error")
    ],
)
def test_the_examples_of_errors_are_of_their_class(failure: FailureClass, said: str) -> None:
    exception_type, _, message = said.partition(": ")
    assert class_of_error(exception_type, message) is failure


@given(st.text(), st.text())
def test_no_text_is_too_odd_for_an_error(exception_type: str, message: str) -> None:
    assert class_of_error(exception_type, message) in TAXONOMY


def test_the_recorded_refusals_are_told_apart() -> None:
    bodies = recorded_refusals()
    missing = [json.dumps(body) for body in bodies if refusal_class(body) is MISSING]
    for word in ("NoSuchNode", "missing.safetensors", "Invalid image file: missing.png"):
        assert any(word in body for body in missing), word
    assert len(missing) == 3
    assert len(bodies) > 12


def node_errors(*errors: tuple[str, str, Any]) -> dict[str, Any]:
    return {
        str(at): {
            "errors": [
                {
                    "type": kind,
                    "message": "",
                    "details": f"{name}: '{value}' not in []",
                    "extra_info": {"input_name": name, "received_value": value},
                }
            ],
            "dependent_outputs": [],
            "class_type": "X",
        }
        for at, (kind, name, value) in enumerate(errors)
    }


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([["value_not_in_list", "ckpt_name", "a.safetensors"]], "node_or_model_missing"),
        ([["value_not_in_list", "vae_name", "taesd"]], "node_or_model_missing"),
        ([["value_not_in_list", "lora", "styles/a.pt"]], "node_or_model_missing"),
        (
            [
                ["value_not_in_list", "ckpt_name", "a.ckpt"],
                ["value_not_in_list", "lora_name", "b.pt"],
            ],
            "node_or_model_missing",
        ),
        ([["value_not_in_list", "sampler_name", "nope"]], "workflow_refused"),
        ([["value_not_in_list", "scheduler", "nope"]], "workflow_refused"),
        ([["value_not_in_list", "ckpt_name", 3]], "workflow_refused"),
        (
            [
                ["value_not_in_list", "ckpt_name", "a.ckpt"],
                ["required_input_missing", "steps", None],
            ],
            "workflow_refused",
        ),
        ([], "workflow_refused"),
    ],
)
def test_a_file_that_a_backend_lacks_is_told_from_a_wrong_graph(
    errors: list[Any], expected: str
) -> None:
    said = "Prompt outputs failed validation"
    assert (
        class_of_refusal("prompt_outputs_failed_validation", said, node_errors(*errors)) == expected
    )


def test_a_class_that_a_newer_comfyui_lacks_is_missing_and_one_not_given_is_no_class() -> None:
    lacks = "Node 'Fancy' not found. The custom node may not be installed."
    none = "Node ID '#3' has no class_type. The workflow may be corrupted."
    assert class_of_refusal("missing_node_type", lacks, {}) is MISSING
    assert class_of_refusal("missing_node_type", none, {}) is REFUSED


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
odd_errors = st.dictionaries(
    st.sampled_from(["errors", "class_type"]),
    json_values | st.lists(st.dictionaries(st.sampled_from(["type", "extra_info"]), json_values)),
)


@settings(max_examples=50)
@given(st.text(), st.text(), st.none() | st.dictionaries(st.text(), odd_errors | json_values))
def test_no_refusal_is_too_odd(
    error_type: str, message: str, errors: dict[str, Any] | None
) -> None:
    assert class_of_refusal(error_type, message, errors) in TAXONOMY
