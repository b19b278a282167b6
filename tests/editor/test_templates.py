"""Workflows that ComfyUI publishes, converted by the Director and by ComfyUI's own editor: the same
API format.
"""

import copy
import json
from typing import Any

import pytest

from backends.node_classes import node_class
from jobgroups.workflow import embedded
from jobgroups.workflow.editor import convert
from jobgroups.workflow.graph import is_link
from jobgroups.workflow.to_editor import to_editor
from tests.browser.conftest import CHROMIUM
from tests.editor.templates import DESCRIBED, EXCLUDED, EXPORTS, digest, templates

HASHES: dict[str, str] = json.loads(EXPORTS.read_text(encoding="utf-8"))
EXPORTED = sorted(HASHES)[:: len(HASHES) // 6]  #: Some of them, for the editor itself.


def test_templates_are_converted_as_the_editor_exports_them() -> None:
    classes = {name: node_class(described) for name, described in DESCRIBED.items()}
    found = {
        name: digest(convert(workflow, classes)[0])
        for name, workflow in templates()
        if name not in EXCLUDED
    }
    assert found == HASHES
    assert len(found) >= 100


def test_values_of_a_job_are_written_into_the_widgets_of_templates() -> None:
    classes = {name: node_class(described) for name, described in DESCRIBED.items()}
    written = 0
    for name, workflow in templates():
        if name in EXCLUDED:
            continue
        converted, _ = convert(embedded.mark_values(workflow), classes)
        places = embedded.take_places(converted)
        assert digest(converted) == HASHES[name]
        sent = copy.deepcopy(converted)
        for node_id, inputs in places.items():
            for key in inputs:
                value = sent[node_id]["inputs"][key]
                if type(value) in (int, float):
                    sent[node_id]["inputs"][key] = value + 1
                elif key in ("text", "prompt", "filename_prefix"):
                    sent[node_id]["inputs"][key] = f"{value} changed"
        filled = embedded.fill_values(copy.deepcopy(dict(workflow)), places, sent)
        assert (filled == workflow) is (sent == converted)
        assert digest(convert(filled, classes)[0]) == digest(sent), name
        written += sum(map(len, places.values()))
    assert written > 8_000


#: Templates of which an input without a widget has a value, or whose text has a comment in a comment.
NOT_WHOLE = {
    *("image_ernie_image", "image_ernie_image_turbo", "image_ideogram4_t2i_int8"),
    "video_wan21_scail2_character_replacement",
    "video_wan21_scail2_character_replacement_int8",
}


def test_workflows_of_the_api_format_are_what_the_editor_would_export_again() -> None:
    classes = {name: node_class(described) for name, described in DESCRIBED.items()}
    not_whole = set()
    for name, workflow in templates():
        if name in EXCLUDED:
            continue
        exported, _ = convert(workflow, classes)
        editor = to_editor(exported, classes)
        again, _ = convert(editor, classes)
        # Nodes of flattened subgraphs (``194:45``) get numbers; the order stays.
        ids = dict(zip(exported, again, strict=True))
        if digest(again) != digest(_renamed(exported, ids)):
            not_whole.add(name)
        for node in editor["nodes"]:
            for link in filter(None, (slot["link"] for slot in node["inputs"])):
                _, origin, at, target, *_ = editor["links"][link - 1]
                [source] = [other for other in editor["nodes"] if other["id"] == origin]
                assert target == node["id"]
                assert link in source["outputs"][at]["links"]
                assert source["pos"][0] < node["pos"][0]
    assert not_whole == NOT_WHOLE


def _renamed(graph: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    def value(given: Any) -> Any:
        return [ids[given[0]], given[1]] if is_link(given) and given[0] in ids else given

    return {
        ids[node_id]: {
            **node,
            "inputs": {name: value(given) for name, given in node["inputs"].items()},
        }
        for node_id, node in graph.items()
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_hashes_are_those_of_the_editor() -> None:
    from tests.editor.frontend import editor

    with editor() as export:
        found = {
            name: digest(export(workflow)) for name, workflow in templates() if name in EXPORTED
        }
    assert found == {name: HASHES[name] for name in EXPORTED}
