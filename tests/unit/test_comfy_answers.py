"""How answers, outputs, texts and addresses of ComfyUI are read."""

import base64
import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from backends.comfyui import answers, wire_json
from backends.comfyui.address import check_headers, normalise_url, slug_for_url
from backends.comfyui.answers import system_stats
from backends.comfyui.errors import PromptRefused, ProtocolError, Refusal, ResponseLost
from backends.comfyui.outputs import ADDED, collect_outputs, plain_error, view_url
from backends.comfyui.protocol import ExecutionError
from backends.comfyui.refusals import answer_lost, refused_outputs, sentence
from backends.comfyui.texts import one_line
from backends.comfyui.versions import (
    Feature,
    Limitation,
    editor_problem,
    has,
    keeps_prompt_id,
    limitations,
)
from backends.comfyui.wire_json import WireDecoder
from jobgroups.domain.shapes.groups import OutputFile
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
    accepted = answers.parse_accepted(body(answer))
    assert accepted.prompt_id == answer["body"]["prompt_id"]
    assert accepted.number == answer["body"]["number"]
    assert accepted.node_errors == answer["body"]["node_errors"]


def history(text: bytes) -> Any:
    return answers.history_entry(text, "p")


NONSENSE = [b"", b"[]", b"<html>"]


@pytest.mark.parametrize(
    ("read", "text"),
    [(answers.parse_accepted, text) for text in (*NONSENSE, b"{}", b'{"prompt_id":1,"number":0}')]
    + [(answers.parse_accepted, b'{"prompt_id":"p"}')]
    + [(answers.system_stats, text) for text in (*NONSENSE, b"{}", b'{"system":[]}')]
    + [(answers.system_stats, b'{"system":{},"devices":{}}')]
    + [(history, text) for text in (*NONSENSE, b'{"p":{}}', b'{"p":null}')]
    + [(history, b'{"p":{"prompt":[1,"p",{},{}],"status":null}}')],
)
def test_nonsense_answer_is_a_protocol_error(read: Callable[[bytes], Any], text: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(text)


@pytest.mark.parametrize(
    "answer", [case for case in recorded("refused") if case.values[0]["status"] == 400]
)
def test_refused_prompt_has_its_reason_and_a_sentence(answer: dict[str, Any]) -> None:
    refusal = answers.refusal(body(answer))
    said = sentence(refusal, status=answer["status"])
    error = answer["body"]["error"]
    assert (refusal.error_type, refusal.message, refusal.details) == (
        error["type"],
        error["message"],
        error["details"],
    )
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
        "ComfyUI did not execute output node 12 (SaveImage): it was refused, and ComfyUI's "
        "answer was lost",
    ]


def test_acceptance_without_node_errors_refused_nothing() -> None:
    for text in (b'{"prompt_id":"p","number":1}', b'{"prompt_id":"p","number":1,"node_errors":[]}'):
        assert answers.parse_accepted(text).node_errors == {}


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
    for item, seen in zip(
        by_number + wire["queue_running"], queue.pending + queue.running, strict=True
    ):
        assert seen.client_id == item[3].get("client_id")
        assert {key: seen.mark(key) for key in item[3]} == item[3]


def test_marks_are_read_and_the_editors_workflow_is_not_kept() -> None:
    extra = {
        "client_id": {"odd": 1},
        "director": {"child": "j_1"},
        "extra_pnginfo": {"workflow": {}},
    }
    wire = {
        "queue_running": [[1, "p", {"1": {}}, extra, [], {"sensitive": 1}]],
        "queue_pending": [],
    }
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
    error |= {
        "exception_type": "ExecutionBlocked",
        "exception_message": "Execution Blocked: stop here",
    }
    entry = ended(("execution_error", error), ("execution_success", {"prompt_id": "p"}))
    assert (entry.outcome, entry.error) == ("success", None)
    prompt = result.PromptInfo(
        prompt_id="p", workflow={}, base_url="http://gpu-1", group_id="g", child_id="j"
    )
    assert result.from_history(prompt, entry, {}).warnings == (
        "ComfyUI did not execute node 3 (SaveImage): Execution Blocked: stop here",
    )


@pytest.mark.parametrize(
    ("end", "seconds"),
    [
        ("execution_success", 4.25),
        ("execution_error", 4.25),
        ("execution_interrupted", 4.25),
        ("execution_cached", None),  # as of a success in 2023
    ],
)
def test_seconds_of_an_execution_are_those_from_its_start_to_its_end_in_the_history(
    end: str, seconds: float | None
) -> None:
    entry = ended(
        ("execution_start", {"prompt_id": "p", "timestamp": 1_800_000_000_000}),
        ("execution_cached", {"prompt_id": "p", "timestamp": 1_800_000_000_010}),
        (end, {"prompt_id": "p", "timestamp": 1_800_000_004_250}),
    )
    prompt = result.PromptInfo(
        prompt_id="p", workflow={}, base_url="http://gpu-1", group_id="g", child_id="j"
    )
    assert result.from_history(prompt, entry, {}).seconds == seconds


URL = "http://localhost:8188"


def image(filename: str, subfolder: str = "", kind: str = "output") -> dict[str, str]:
    return {"filename": filename, "subfolder": subfolder, "type": kind}


def test_references_example_comes_out_as_printed() -> None:
    outputs = collect_outputs({"9": {"images": [image("ComfyUI_00001_.png")]}}, URL, "p")
    assert outputs == {
        "images": [
            {
                "filename": "ComfyUI_00001_.png",
                "url": "http://localhost:8188/view?filename=ComfyUI_00001_.png",
                "subfolder": "",
                "type": "output",
            }
        ],
        "prompt_id": "p",
    }


@pytest.mark.parametrize(
    ("filename", "subfolder", "kind", "query"),
    [
        ("a.png", "", "output", "filename=a.png"),
        ("a.png", "", "temp", "filename=a.png&type=temp"),
        ("a.png", "job 1/x", "output", "filename=a.png&subfolder=job%201%2Fx"),
        (
            "ü &?#%.png",
            "a\\b",
            "temp",
            "filename=%C3%BC%20%26%3F%23%25.png&subfolder=a%5Cb&type=temp",
        ),
    ],
)
def test_urls_are_percent_encoded(filename: str, subfolder: str, kind: str, query: str) -> None:
    url = view_url(URL, filename=filename, subfolder=subfolder, type=kind)
    assert url == f"{URL}/view?{query}"


@pytest.mark.parametrize(
    ("nodes", "order", "names"),
    [
        ("10 9 save 2 9.0.0.1", None, "2 9 9.0.0.1 10 save"),
        ("1 10 9.0.0.1 2 7", ["10", "9", "2"], "10 9.0.0.1 2 1 7"),
    ],
)
def test_nodes_come_in_the_prompts_order_or_by_number_and_expanded_ones_at_their_parent(
    nodes: str, order: list[str] | None, names: str
) -> None:
    outputs = {node: {"images": [image(node)]} for node in nodes.split()}
    found = collect_outputs(outputs, URL, "p", node_order=order)
    assert [file["filename"] for file in found["images"]] == names.split()


def test_other_kinds_stand_under_their_own_key_in_the_same_form() -> None:
    clip = {**image("a.mp4", "v", "temp"), "format": "video/h264-mp4", "frame_rate": 8}
    found = collect_outputs(
        {
            "1": {"gifs": [clip], "text": ["a"]},
            "2": {"audio": [image("a.flac")], "text": ["b"], "result": {"path": "m.glb"}},
            "3": {"images": [image("a.webp")], "animated": [True], "prompt_id": ["x"]},
        },
        URL,
        "p",
    )
    assert found["gifs"] == [{**clip, "url": f"{URL}/view?filename=a.mp4&subfolder=v&type=temp"}]
    assert found["audio"][0]["url"] == f"{URL}/view?filename=a.flac"
    assert found["text"] == ["a", "b"]
    assert found["result"] == [{"path": "m.glb"}]
    assert found["animated"] == [True]
    assert found["prompt_id"] == "p"
    assert json.loads(json.dumps(found)) == found


def test_file_of_a_3d_preview_is_a_file_too() -> None:
    saved, camera = image("mesh_00001_.glb", "mesh"), {"position": {"x": 1}}
    nodes = {
        "1": {"3d": [saved]},
        "2": {"result": ["mesh\\mesh_00001_.glb", camera, None]},
        "3": {"result": ["preview3d_advanced_5e.OBJ", None, "b.png"]},
        "4": {"result": ["preview3d_5e.glb", "text.txt", ""]},
    }
    found = collect_outputs(nodes, URL, "p")
    assert [(one["url"].partition("?filename=")[2], one["type"]) for one in found["3d"]] == [
        ("mesh_00001_.glb&subfolder=mesh", "output"),
        ("preview3d_advanced_5e.OBJ&type=temp", "temp"),
        ("preview3d_5e.glb", "output"),
    ]
    assert found["result"] == [one for node in ("2", "3", "4") for one in nodes[node]["result"]]


@pytest.mark.parametrize(
    "item", ["a.png", {}, {"filename": 3}, {"filename": ""}, {"filename": "a", "type": 1}]
)
def test_every_item_of_images_is_a_file(item: object) -> None:
    found = collect_outputs({"1": {"images": [item]}}, URL, "p")
    assert found == {"images": [], "images_other": [item], "prompt_id": "p"}


OOM_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ("CUDA out of memory\n", "CUDA out of memory"),
        (f"Allocation on device 0 failed\n{OOM_TIPS}", "Allocation on device 0 failed"),
        (f"\n{OOM_TIPS}", ""),
        ("two\nlines\n", "two\nlines"),
        ("", ""),
    ],
)
def test_tips_and_the_closing_newline_are_cut_off(sent: str, plain: str) -> None:
    assert plain_error(sent) == plain


anything: WireDecoder[Any] = WireDecoder(object)
texts = st.text(
    st.sampled_from('a"\\: ,[]{}NaN-Infinity\n\0é\ud800'), max_size=12
) | st.sampled_from([": NaN,", '", NaN]', '\\", NaN, "', "Infinity", "[NaN]", '\\\\": NaN,'])
written_by_python = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def cleaned(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        case list():
            return [cleaned(item) for item in value]
        case dict():
            return {cleaned(key): cleaned(item) for key, item in value.items()}
        case _:
            return value


@given(written_by_python)
def test_whatever_python_writes_is_read_with_null_for_nan(value: Any) -> None:
    assert anything.decode(json.dumps(value)) == cleaned(value)
    assert anything.decode(json.dumps(value).encode()) == cleaned(value)


def test_nan_inside_strings_stays() -> None:
    text = r'{"a": NaN, "b": "x: NaN, \" [NaN] \\", "c": [NaN, -Infinity], "d": "\\\": NaN,"}'
    assert anything.decode(text) == {
        "a": None,
        "b": 'x: NaN, " [NaN] \\',
        "c": [None, None],
        "d": '\\": NaN,',
    }


@pytest.mark.parametrize("text", [b"", b"{", b"<html>", b"\xff", b'"\xff"', b"[NaN", b"NaNa"])
def test_what_is_not_json_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        anything.decode(text)


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_becomes_one_line_that_can_be_stored_and_shown(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 500
    assert len(line.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in line)
    line.encode()


def test_ordinary_text_stays_as_it_is_and_a_long_one_is_cut() -> None:
    assert one_line("gpu-2: não, 日本 ✓ (1011).") == "gpu-2: não, 日本 ✓ (1011)."
    assert one_line("x" * 10_000) == "x" * 499 + "…"


def test_errors_and_facts_of_a_backend_are_one_line_and_a_refusal_stays_comfyuis_text() -> None:
    assert str(ResponseLost("a\nb\x1b[0m")) == "a b [0m"
    assert PromptRefused("a\nb").detail == "a\nb"
    stats = system_stats(
        rb'{"system": {"comfyui_version": "0.3\u001b[2J"}, "devices": [{"name": "RTX\r\n\u001bc"}]}'
    )
    assert (stats.version, stats.devices[0].name) == ("0.3 [2J", "RTX c")


TARGETED = "0.3.57 v0.3.57 0.3.100 0.4 0.4.0rc1 1.0.0 0.3.57.post1 0.3.57-3-gabc 0.3.58-dev"
OLD = "unknown 0.3.56 0.3.9 0.3 0.2.99 0.3.57rc1 0.3.57-dev 0.3.57.dev4 0.3.57-alpha.1 0 x0.3.64"


@pytest.mark.parametrize("version", TARGETED.split())
def test_versions_that_stop_one_prompt(version: str) -> None:
    assert has(version, Feature.TARGETED_INTERRUPT)


@pytest.mark.parametrize("version", [None, "", "0.3.56-99-gabc", *OLD.split()])
def test_versions_that_would_stop_whatever_runs(version: str | None) -> None:
    assert not has(version, Feature.TARGETED_INTERRUPT)


def test_jobs_and_their_cancel_need_a_readable_version() -> None:
    assert [has(one, Feature.JOBS) for one in ("0.5.9", "0.6.0", "1.0", None, "x")] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert [has(one, Feature.CANCEL) for one in ("0.25.1", "v0.26.0", "0.33.0", None)] == [
        False,
        True,
        True,
        False,
    ]


def test_only_a_readable_old_version_is_known_to_choose_its_own_prompt_ids() -> None:
    assert not any(map(keeps_prompt_id, ("0.3.44", "0.2.9")))
    assert all(map(keeps_prompt_id, ("0.3.45", "v1.0.0", None, "x")))


def test_limitations_of_versions() -> None:
    jobs, stop, previews, steps = Limitation
    found = {"": [], "0.3.40": [jobs], "0.3.50": [stop, previews], "strange": [stop, previews]}
    found |= {"0.3.64": [previews, steps], "0.5.0": [steps], "0.26.0": [], "0.33.0": []}
    assert {version: limitations(version) for version in found} == found


@pytest.mark.parametrize("required", ["1.49.6", "1.49", "1.9.99", "", "newest"])
def test_an_editor_that_is_new_enough_fits(required: str) -> None:
    assert editor_problem(required, "1.49.6") == ""
    assert editor_problem("1.49.6", None) == ""


def test_an_older_editor_does_not_fit() -> None:
    problem = editor_problem("1.49.6", "1.27.10")
    assert "requires version 1.49.6" in problem
    assert "1.27.10 is installed" in problem


LOOPBACK = "http://localhost:8188"
ADDRESSES = tomllib.loads(Path(__file__).with_name("addresses.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ADDRESSES["loopback"])
def test_every_loopback_spelling_is_localhost(text: str) -> None:
    assert normalise_url(text).url == LOOPBACK


@pytest.mark.parametrize(("text", "url", "slug"), ADDRESSES["spellings"])
def test_one_address_has_one_spelling_and_a_readable_slug(text: str, url: str, slug: str) -> None:
    normal = normalise_url(text)
    assert (normal.url, normal.authorization, slug_for_url(text)) == (url, None, slug)
    # A prefix may hold percent signs and must survive a second pass.
    assert normalise_url(url).url == url


@pytest.mark.parametrize(("text", "sentence"), ADDRESSES["malformed"])
def test_malformed_address_is_explained_and_not_repeated(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        normalise_url(text)
    assert "secret" not in str(caught.value)


def test_login_becomes_basic_auth_and_is_never_shown() -> None:
    address = normalise_url("https://us%40er:p%3A%C3%A4ss@farm/gpu1")
    assert address.url == "https://farm/gpu1"
    encoded = address.headers_with({})["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == "us@er:p:äss"
    assert encoded not in repr(address)


@settings(max_examples=50)
@given(st.text())
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    url, refused = "", ""
    try:
        url = normalise_url(text).url
    except ValueError as exc:
        refused = str(exc)
    if refused:
        assert refused.startswith(("The ", "An "))
        return
    assert normalise_url(url).url == url
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", slug_for_url(url))


@pytest.mark.parametrize(("name", "value"), ADDRESSES["headers"])
def test_headers_that_would_break_requests_are_refused_and_not_shown(name: str, value: str) -> None:
    fine = {"Authorization": "Bearer abc", "X-Token": "a b", "X-Empty": ""}
    assert check_headers(fine) == fine
    with pytest.raises(ValueError, match="header") as caught:
        check_headers(fine | {name: value})
    assert "secret" not in str(caught.value)


def test_outputs_have_no_address_and_no_mark_of_a_node() -> None:
    spoofed = dict.fromkeys(ADDED, "x") | {"format": "video/h264"}
    items = [{"filename": "a.mp4", **spoofed}, {"filename": "b.mp4", "subfolder": 5, **spoofed}]
    prompt = result.PromptInfo(
        prompt_id="p", workflow={}, base_url=URL, group_id="jg_1", child_id="j_1"
    )
    file, other = prompt.outputs({"9": {"gifs": items}})["gifs"]
    assert file.keys() == {"filename", "url", "subfolder", "type", "format"}
    assert file["url"] == f"{URL}/view?filename=a.mp4"
    assert "url" not in other
    # Those with which the API describes a file.
    assert {field.name for field in dataclasses.fields(OutputFile)} - ADDED == {
        *("filename", "subfolder", "type", "raw")
    }


def test_text_of_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder: WireDecoder[list[Any]] = WireDecoder(list[Any])
    monkeypatch.setattr(wire_json, "_MAX_LAX_VALUES", 3)
    assert decoder.decode(b"[1, NaN, 2, 3]") == [1, None, 2, 3]
    assert decoder.decode(b"[1, 2, 3, 4, 5]") == [1, 2, 3, 4, 5]
    with pytest.raises(ProtocolError, match="too many values"):
        decoder.decode(b"[1, NaN, 2, 3, 4]")
    monkeypatch.setattr(wire_json, "_MAX_VALUES", 4)
    with pytest.raises(ProtocolError, match="too many values"):
        decoder.decode(b"[1, 2, 3, 4, 5, 6]")
