"""Workflows that ComfyUI publishes, converted by the Director and by ComfyUI's own editor: the same API format."""

import json
import shutil

import pytest

from backends.node_classes import node_class
from jobgroups.workflow.editor import convert
from tests.editor.templates import DESCRIBED, EXCLUDED, EXPORTS, digest, templates

HASHES: dict[str, str] = json.loads(EXPORTS.read_text(encoding="utf-8"))
EXPORTED = sorted(HASHES)[:: len(HASHES) // 6]  #: Some of them, for the editor itself.


def test_templates_are_converted_as_the_editor_exports_them() -> None:
    classes = {name: node_class(described) for name, described in DESCRIBED.items()}
    found = {name: digest(convert(workflow, classes)[0]) for name, workflow in templates() if name not in EXCLUDED}
    assert found == HASHES
    assert len(found) >= 100


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_hashes_are_those_of_the_editor() -> None:
    from tests.editor.frontend import editor

    with editor() as export:
        found = {name: digest(export(workflow)) for name, workflow in templates() if name in EXPORTED}
    assert found == {name: HASHES[name] for name in EXPORTED}
