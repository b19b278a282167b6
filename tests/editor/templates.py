"""ComfyUI's workflow templates, and the descriptions of the node classes that they use
(``object_info.json.gz``).

The descriptions have what decides about widgets, of each list of choices the first one. They come
from a ComfyUI 0.33.0.
"""

import gzip
import hashlib
import json
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jobgroups.workflow.validation import is_editor_format

FOLDER: Final = Path(__file__).parent
DESCRIBED: Final[dict[str, Any]] = json.loads(
    gzip.decompress((FOLDER / "object_info.json.gz").read_bytes())
)
EXPORTS: Final = FOLDER / "exports.json"  #: By template, the hash of the editor's own export.
#: Templates that are not compared, by reason.
EXCLUDED: Final[dict[str, str]] = {
    name: group["reason"]
    for group in tomllib.loads((FOLDER / "excluded.toml").read_text(encoding="utf-8"))["excluded"]
    for name in group["templates"]
}


def templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the workflow of each template."""
    for file in sorted(
        files("comfyui_workflow_templates_json").joinpath("templates").iterdir(),
        key=lambda one: one.name,
    ):
        workflow = (
            json.loads(file.read_text(encoding="utf-8")) if file.name.endswith(".json") else None
        )
        if is_editor_format(workflow):
            yield file.name.removesuffix(".json"), workflow


def digest(export: object) -> str:
    """Return the hash of an export: keys sorted, numbers as JavaScript writes them, no packages of
    nodes in ``_meta``.
    """
    return hashlib.sha256(json.dumps(_canonical(export), sort_keys=True).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _canonical(one)
            for key, one in value.items()
            if key not in ("cnr_id", "aux_id", "ver")
        }
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        return int(number) if number.is_integer() else number
    return value
