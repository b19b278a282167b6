"""ComfyUI's outputs and errors in our form: outputs with addresses, errors without tips. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

#: What ComfyUI adds behind the message of an out-of-memory error (execution.py;
#: comfyui-protocol.md, "WebSocket").
_TIPS: Final = re.compile(
    r"\n?(This error means you ran out of memory on your GPU\.|TIPS: If the workflow worked before).*\Z",
    re.DOTALL,
)
#: A 3D preview reports the name of its file instead of a file object.
_MODEL: Final = re.compile(
    r"(?:(.+)/)?([^/]+\.(?:fbx|glb|gltf|obj|ply|splat|spz|stl|usdz))", re.IGNORECASE
)
#: The preview that writes to the temp folder; others name a file of the output folder.
_TEMP_MODEL: Final = "preview3d_advanced_"
#: What the Director itself adds to files.
ADDED: Final = frozenset(
    {
        *("url", "file_url", "thumbnail_url", "node_id", "captured", "capture_warning", "missing"),
        *("reason", "blake3", "sha256", "size_bytes", "width", "height", "duration"),
    }
)
_NUMBERS: Final = re.compile(r"(\d+)")


def plain_error(exception_message: str) -> str:
    """The message as the node raised it, without ComfyUI's tips and closing newline."""
    return _TIPS.sub("", exception_message).rstrip()


def view_url(base_url: str, *, filename: str, subfolder: str = "", type: str = "output") -> str:  # noqa: A002  # ComfyUI's name
    """The address of one file; ``subfolder`` and ``type`` only where they are not ComfyUI's
    defaults.
    """
    query = [f"filename={quote(filename, safe='')}"]
    if subfolder:
        query.append(f"subfolder={quote(subfolder, safe='')}")
    if type != "output":
        query.append(f"type={quote(type, safe='')}")
    return f"{base_url}/view?{'&'.join(query)}"


def without_added(ui: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a node reported, without the keys of its files that the Director itself adds."""
    return {
        key: list(map(_without_added, value)) if isinstance(value, list) else _without_added(value)
        for key, value in ui.items()
    }


def _without_added(item: Any) -> Any:
    if not isinstance(item, dict) or "filename" not in item or ADDED.isdisjoint(item):
        return item
    return {name: value for name, value in item.items() if name not in ADDED}


def collect_outputs(
    outputs: Mapping[str, Mapping[str, Any]],
    base_url: str,
    prompt_id: str,
    node_order: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Put the outputs of all nodes together under ComfyUI's own keys.

    Args:
        outputs: node id to its ``ui`` object, as in the history or in ``executed``.
        base_url: the backend's, without a slash at the end.
        node_order: node ids in the order of the prompt; other nodes follow in natural order. An
            expanded node (``1.0.0.1``) has the place of its parent.

    Returns:
        ``prompt_id``, ``images`` and every other key that ComfyUI reported, each a list. A file is
        ``{filename, url, subfolder, type}`` and what ComfyUI adds to it. Images that are no files
        are under ``images_other``, the files of 3D previews under ``3d``.
    """
    collected: dict[str, Any] = {"images": []}
    for node in _in_node_order(outputs, node_order or ()):
        for key, value in outputs[node].items():
            for item in value if isinstance(value, list) else [value]:
                _put(collected, key, item, base_url)
    return {**collected, "prompt_id": prompt_id}


def _put(collected: dict[str, Any], key: str, item: Any, base_url: str) -> None:
    if _is_file(item):
        item = _file(item, base_url)
    elif key == "images":
        key = "images_other"
    elif (
        key == "result"
        and isinstance(item, str)
        and (model := _MODEL.fullmatch(item.replace("\\", "/")))
    ):
        kind = "temp" if model[2].startswith(_TEMP_MODEL) else "output"
        file = _file({"filename": model[2], "subfolder": model[1] or "", "type": kind}, base_url)
        known = [other.get("url") for other in collected.get("3d", ()) if isinstance(other, dict)]
        if file["url"] not in known:
            collected.setdefault("3d", []).append(file)
    collected.setdefault(key, []).append(item)


def _is_file(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("filename"), str)
        and item["filename"] != ""
        and isinstance(item.get("subfolder", ""), str)
        and isinstance(item.get("type", "output"), str)
    )


def _file(item: dict[str, Any], base_url: str) -> dict[str, Any]:
    filename, subfolder = item["filename"], item.get("subfolder", "")
    kind = item.get("type", "output")
    url = view_url(base_url, filename=filename, subfolder=subfolder, type=kind)
    file = {"filename": filename, "url": url, "subfolder": subfolder, "type": kind}
    return {**item, **file} if item.keys() - file.keys() else file


def _in_node_order(outputs: Mapping[str, Any], node_order: Sequence[str]) -> list[str]:
    place = {node: index for index, node in enumerate(node_order)}

    def rank(node: str) -> tuple[int, tuple[tuple[int, int, str], ...]]:
        parent = node.partition(".")[0]
        return place.get(node, place.get(parent, len(place))), _natural(node)

    return sorted(outputs, key=rank)


def _natural(node: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which ``2`` comes before ``10`` and numbers before texts."""
    parts = [part for part in _NUMBERS.split(node) if part]
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in parts)
