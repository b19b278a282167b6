import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.comfyui import answers
from backends.comfyui.errors import ProtocolError, Refusal
from backends.comfyui.protocol import ExecutionError
from backends.comfyui.refusals import answer_lost, refused_outputs, sentence
from jobgroups.runner.attempt import result

RECORDED = json.loads((Path(__file__).parent / "frames" / "answers.json").read_text())


def recorded(kind: str) -> list[Any]:
    found = [answer for answer in RECORDED if answer["kind"] == kind]
    assert found, f"no recorded answer of kind {kind}"
    return [pytest.param(answer, id=answer["scenario"]) for answer in found]


def body(answer: dict[str, Any]) -> bytes:
    value = answer["body"]
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@pytest.mark.parametrize("answer", recorded("accepted"))
def test_accepted_prompt_has_its_id_and_number(answer: dict[str, Any]) -> None:
    accepted = answers.accepted(body(answer))
    assert accepted.prompt_id == answer["body"]["prompt_id"]
    assert accepted.number == answer["body"]["number"]
    assert accepted.node_errors == answer["body"]["node_errors"]


def history(text: bytes) -> Any:
    return answers.history_entry(text, "p")


NONSENSE = [b"", b"[]", b"<html>"]


@pytest.mark.parametrize(
    ("read", "text"),
    [(answers.accepted, text) for text in (*NONSENSE, b"{}", b'{"prompt_id":1,"number":0}')]
    + [(answers.accepted, b'{"prompt_id":"p"}')]
    + [(answers.system_stats, text) for text in (*NONSENSE, b"{}", b'{"system":[]}')]
    + [(answers.system_stats, b'{"system":{},"devices":{}}')]
    + [(history, text) for text in (*NONSENSE, b'{"p":{}}', b'{"p":null}')]
    + [(history, b'{"p":{"prompt":[1,"p",{},{}],"status":null}}')],
)
def test_nonsense_answer_is_a_protocol_error(read: Callable[[bytes], Any], text: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(text)


@pytest.mark.parametrize("answer", [case for case in recorded("refused") if case.values[0]["status"] == 400])
def test_refused_prompt_has_its_reason_and_a_sentence(answer: dict[str, Any]) -> None:
    refusal = answers.refusal(body(answer))
    said = sentence(refusal, status=answer["status"])
    error = answer["body"]["error"]
    assert (refusal.error_type, refusal.message, refusal.details) == (error["type"], error["message"], error["details"])
    assert refusal.node_errors == answer["body"]["node_errors"]
    assert said.startswith(error["message"])
    for node_id, node in list(refusal.node_errors.items())[:1]:
        assert f"node {node_id} ({node['class_type']}): {node['errors'][0]['message']}" in said


def test_refusal_names_the_node_and_what_is_wrong_with_it() -> None:
    errors = [{"message": "Value not in list", "details": "sampler_name: 'nope' not in [...]"}] * 4
    refusal = Refusal(
        error_type="prompt_outputs_failed_validation",
        message="PromptInfo outputs failed validation",
        details="",
        node_errors={"3": {"class_type": "KSampler", "errors": errors}, "4": "odd"},
    )
    fault = "node 3 (KSampler): Value not in list: sampler_name: 'nope' not in [...]"
    said = sentence(refusal, status=400)
    assert said == f"PromptInfo outputs failed validation: {fault}; {fault}; {fault}; and 1 more"


def test_refusal_names_the_class_that_is_missing_and_not_the_title_of_its_node_alone() -> None:
    info = {"node_id": "1", "class_type": "NoSuchNode", "node_title": "Mine"}
    error = {"type": "missing_node_type", "message": "Node 'Mine' not found.", "extra_info": info}
    refusal = answers.refusal(json.dumps({"error": error, "node_errors": {}}).encode())
    assert sentence(refusal, status=400) == "Node 'Mine' not found. It is node 1 (NoSuchNode)."


def test_refused_outputs_are_named_with_the_node_that_is_wrong() -> None:
    error = {"message": "Value not in list", "details": "ckpt_name:\n'x'"}
    node_errors = {
        "9": {"class_type": "SaveImage", "errors": [error], "dependent_outputs": ["9"]},
        "4": {"class_type": "Loader", "errors": [error, error], "dependent_outputs": ["10", "11"]},
        "5": {"class_type": "SaveImage", "errors": "odd"},
        "6": "odd",
        "12": answer_lost("SaveImage"),
    }
    cause = "Value not in list: ckpt_name: 'x'"
    assert list(refused_outputs(node_errors)) == [
        f"ComfyUI did not execute output node 9 (SaveImage): {cause}",
        f"ComfyUI did not execute output nodes 10, 11, because of node 4 (Loader): {cause}; {cause}",
        "ComfyUI did not execute output node 5 (SaveImage): it gave no reason",
        "ComfyUI did not execute output node 6 (?): it gave no reason",
        "ComfyUI did not execute output node 12 (SaveImage): it was refused, and ComfyUI's answer was lost",
    ]


def test_acceptance_without_node_errors_refused_nothing() -> None:
    for text in (b'{"prompt_id":"p","number":1}', b'{"prompt_id":"p","number":1,"node_errors":[]}'):
        assert answers.accepted(text).node_errors == {}


LIMIT = "Maximum request body size 104857600 exceeded."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LIMIT.encode(), LIMIT),
        (b'{"error":"no","node_errors":[]}', "no"),
        (b"", "ComfyUI refused the prompt with 413"),
        (b"\xff\0", "\ufffd\ufffd"),
    ],
)
def test_refusal_in_another_form_is_still_a_refusal(text: bytes, message: str) -> None:
    refusal = answers.refusal(text)
    assert sentence(refusal, status=413) == message
    assert (refusal.error_type, refusal.node_errors) == ("", {})


@pytest.mark.parametrize("answer", recorded("queue"))
def test_queue_is_sorted_and_says_whose_prompts_stand_there(answer: dict[str, Any]) -> None:
    queue = answers.queue(body(answer))
    wire = answer["body"]
    by_number = sorted(wire["queue_pending"], key=lambda item: item[0])
    assert [item.prompt_id for item in queue.pending] == [item[1] for item in by_number]
    assert [item.prompt_id for item in queue.running] == [item[1] for item in wire["queue_running"]]
    for item, seen in zip(by_number + wire["queue_running"], queue.pending + queue.running, strict=True):
        assert (seen.number, seen.client_id) == (item[0], item[3].get("client_id"))
        assert {key: seen.mark(key) for key in item[3]} == item[3]


def test_marks_are_read_and_the_editors_workflow_is_not_kept() -> None:
    extra = {"client_id": {"odd": 1}, "director": {"child": "j_1"}, "extra_pnginfo": {"workflow": {}}}
    wire = {"queue_running": [[1, "p", {"1": {}}, extra, [], {"sensitive": 1}]], "queue_pending": []}
    (item,) = answers.queue(json.dumps(wire).encode()).running
    assert item.client_id is None
    assert item.mark("director") == {"child": "j_1"}
    assert (item.mark("absent"), item.mark("extra_pnginfo")) == (None, None)


@pytest.mark.parametrize("answer", recorded("history"))
def test_history_entry_tells_outcome_outputs_and_error(answer: dict[str, Any]) -> None:
    prompt_id = answer["path"].rsplit("/", 1)[1]
    wire = answer["body"].get(prompt_id)
    entry = answers.history_entry(body(answer), prompt_id)
    if wire is None:
        assert entry is None
        return
    assert entry is not None
    kinds = [kind for kind, _ in wire["status"]["messages"]]
    if wire["status"]["status_str"] == "success":
        assert (entry.outcome, entry.error) == ("success", None)
    elif "execution_interrupted" in kinds:
        assert (entry.outcome, entry.error) == ("interrupted", None)
    else:
        failure = dict(wire["status"]["messages"])["execution_error"]
        assert entry.outcome == "error"
        assert isinstance(entry.error, ExecutionError)
        assert entry.error.exception_message == failure["exception_message"]
        assert entry.error.node_id == failure["node_id"]
    assert entry.outputs == wire["outputs"]
    assert [kind for kind, _ in entry.messages] == kinds
    assert entry.item.prompt_id == prompt_id
    assert entry.item.client_id == wire["prompt"][3].get("client_id")


def test_failure_without_a_message_is_still_a_failure() -> None:
    text = b'{"p":{"prompt":[1,"p",{},null],"outputs":{"1":null},"status":{"status_str":"error","messages":[]}}}'
    entry = answers.history_entry(text, "p")
    assert entry is not None
    assert (entry.outcome, entry.error, entry.outputs) == ("error", None, {})


@pytest.mark.parametrize("answer", recorded("queue_remaining"))
def test_queue_length_is_read(answer: dict[str, Any]) -> None:
    assert answers.queue_remaining(body(answer)) == answer["body"]["exec_info"]["queue_remaining"]


@pytest.mark.parametrize("answer", recorded("system_stats"))
def test_version_and_devices_are_read(answer: dict[str, Any]) -> None:
    stats = answers.system_stats(body(answer))
    assert stats.version == "0.3.64"
    assert [device.name for device in stats.devices] == ["cpu"]
    assert stats.devices[0].vram_total == answer["body"]["devices"][0]["vram_total"]


def ended(*messages: tuple[str, dict[str, Any]]) -> answers.HistoryEntry:
    """Return the entry of a prompt that is a success by its status."""
    status = {"status_str": "success", "completed": True, "messages": messages}
    entry = {"prompt": [0, "p", {}, {}, []], "outputs": {}, "status": status}
    found = answers.history_entry(json.dumps({"p": entry}).encode(), "p")
    assert found is not None
    return found


def test_success_that_ends_in_an_error_is_an_error() -> None:
    """ComfyUI 0.3.64 writes this for a dependency cycle through an undeclared input."""
    error = {"prompt_id": "p", "exception_type": "graph.DependencyCycleError"}
    messages = [("execution_start", {"prompt_id": "p"}), ("execution_error", error)]
    assert ended(*messages).outcome == "error"
    assert ended(*messages, ("execution_success", {"prompt_id": "p"})).outcome == "success"


def test_success_keeps_the_errors_of_blocked_nodes_when_its_history_has_them() -> None:
    """ComfyUI 0.3.64 sends them to the socket alone; another version may also store them."""
    error = {"prompt_id": "p", "node_id": "3", "node_type": "SaveImage"}
    error |= {"exception_type": "ExecutionBlocked", "exception_message": "Execution Blocked: stop here"}
    entry = ended(("execution_error", error), ("execution_success", {"prompt_id": "p"}))
    assert (entry.outcome, entry.error) == ("success", None)
    prompt = result.PromptInfo(prompt_id="p", workflow={}, base_url="http://gpu-1")
    assert result.from_history(prompt, entry, {}).warnings == (
        "ComfyUI did not execute node 3 (SaveImage): Execution Blocked: stop here",
    )
