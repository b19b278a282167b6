"""The files in the outputs of a job: their order, identity at a backend, and mark of a replaced
one. Pure.
"""

import hashlib
import json
import posixpath
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

MARK_KEY: Final = "director"  #: The key under which a prompt and its PNGs have the ids of its job.
#: The ``type`` of a picture that came as a frame: only the Director has a file of it.
SENT: Final = "websocket"
#: The ``reason`` of a missing output: a later job wrote another file of the same name.
REPLACED: Final = "replaced"


def output_url(group_id: str, job_id: str, number: int) -> str:
    return f"/api/job-groups/{group_id}/jobs/{job_id}/outputs/{number}"


def reported_files(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the files in a child's ``outputs``, in the order in which they are numbered."""
    keys = ["images", *(key for key in outputs if key != "images")]
    for key in keys:
        items = outputs.get(key)
        if isinstance(items, list):
            yield from (item for item in items if _is_file(item))


def all_missing(outputs: Mapping[str, Any]) -> bool:
    """Return whether the outputs have files and every one of them is missing."""
    files = list(reported_files(outputs))
    return bool(files) and all(file.get("missing") for file in files)


def _is_file(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("filename"), str)
        and isinstance(item.get("url"), str)
    )


def file_digest(backend_id: str, item: Mapping[str, Any]) -> str:
    """Return a digest that is equal for two outputs exactly if they name the same file of a backend.

    One folder may be spelled in several ways (``a``, ``a/``, ``a\\b`` on Windows). Upper and lower case
    are different names, also where the backend's file system does not distinguish them.
    """
    folder = posixpath.normpath(str(item.get("subfolder") or "").replace("\\", "/")).strip("/")
    # ComfyUI drops a folder in front of the name.
    name = str(item["filename"]).rsplit("/", 1)[-1]
    parts = (backend_id, str(item.get("type") or "output"), "" if folder == "." else folder, name)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def digests(
    backend_id: str, node_outputs: Mapping[str, Mapping[str, Any]], executed: Collection[str]
) -> dict[str, bool]:
    """Return the digest of each file that the nodes reported, and whether the prompt has written
    it.

    An input file was there before: a node that shows it has not written it. ``node_outputs`` maps a
    node id to its ``ui`` object. ComfyUI's cache answered for nodes that are not ``executed``.
    """
    written_by_digest: dict[str, bool] = {}
    for node, ui in node_outputs.items():
        for value in ui.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict) and isinstance(item.get("filename"), str):
                    digest = file_digest(backend_id, item)
                    written = node in executed and item.get("type") != "input"
                    written_by_digest[digest] = written_by_digest.get(digest, False) or written
    return written_by_digest


def nodes_of_files(
    backend_id: str, node_outputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return by digest the node that reported each file."""
    return {
        digest: node
        for node in node_outputs
        for digest in digests(backend_id, {node: node_outputs[node]}, ())
    }


def mark_missing(
    outputs: Mapping[str, Any], backend_id: str, replaced: Collection[str]
) -> dict[str, Any]:
    """Return the outputs with the files of these digests marked as missing, because they were
    replaced.
    """

    def mark_replaced(item: Any) -> Any:
        names_a_file = isinstance(item, dict) and isinstance(item.get("filename"), str)
        if names_a_file and file_digest(backend_id, item) in replaced:
            return {**item, "missing": True, "reason": REPLACED}
        return item

    return {
        key: list(map(mark_replaced, output)) if isinstance(output, list) else mark_replaced(output)
        for key, output in outputs.items()
    }
