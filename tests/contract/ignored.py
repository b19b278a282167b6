"""The only list of values that are not compared with a recording, each with its reason.

All other values must be equal: status, header names and values, bodies, and of frames
the order, type, keys and values. Names that are generated in each run (prompt ids, generated socket ids,
prefixes of temporary images, ETags) are not ignored: they are compared by turn (see ``renames``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

Check = Callable[[Any, Any], bool]


def same_type(recorded: Any, seen: Any) -> bool:
    """Both are of one JSON type."""
    return type(recorded) is type(seen)


def same_shape(recorded: Any, seen: Any) -> bool:
    """Both have the same keys and types, however deep."""
    if isinstance(recorded, dict) and isinstance(seen, dict):
        same_keys = recorded.keys() == seen.keys()
        return same_keys and all(same_shape(recorded[key], seen[key]) for key in recorded)
    if isinstance(recorded, list) and isinstance(seen, list):
        return len(recorded) == len(seen) and all(map(same_shape, recorded, seen))
    return same_type(recorded, seen)


def all_texts(recorded: Any, seen: Any) -> bool:
    """Both are lists of texts."""
    return isinstance(seen, list) and all(isinstance(item, str) for item in seen)


def texts_by_key(recorded: Any, seen: Any) -> bool:
    """Both have the same keys, with lists of texts."""
    same = isinstance(seen, dict) and seen.keys() == recorded.keys()
    return same and all(texts(recorded[key], seen[key]) for key in recorded)


def same_media_type(recorded: Any, seen: Any) -> bool:
    """Both headers name one media type, with any character set."""
    types = [headers.get("Content-Type", "").partition(";")[0] for headers in (recorded, seen)]
    return bool(types[0] == types[1])


def texts(recorded: Any, seen: Any) -> bool:
    """Both are lists of texts, and both are empty or neither is."""
    return all_texts(recorded, seen) and bool(recorded) == bool(seen)


def same_unless_tensor(recorded: Any, seen: Any) -> bool:
    """Both are equal, or both are the print of a tensor."""
    if isinstance(recorded, str) and recorded.startswith("tensor("):
        return isinstance(seen, str) and seen.startswith("tensor(")
    return bool(type(recorded) is type(seen) and recorded == seen)


def same_keys(recorded: Any, seen: Any) -> bool:
    """Both are lists of mappings with the same keys, however many."""
    keys = {frozenset(item) for item in recorded}
    return isinstance(seen, list) and all(frozenset(item) in keys for item in seen)


def version(recorded: Any, seen: Any) -> bool:
    """A text, or null for what is not installed."""
    return seen is None or isinstance(seen, str)


ABSENT: Final = object()  # stands for the value of a key that one side lacks


def prose(recorded: Any, seen: Any) -> bool:
    """Each is a text, a list (of texts and nulls), or not there at all."""
    return all(value is ABSENT or isinstance(value, str | list) for value in (recorded, seen))


@dataclass(frozen=True, slots=True)
class Ignored:
    """A place in answers or frames whose value is not compared.

    Attributes:
        path: pattern of the place: ``frame:<type>/<keys>``, ``body:<METHOD> <path>:<keys>`` or
            ``header:<METHOD> <path>:<name>``; a ``*`` stands for anything.
        still: what is demanded of the value all the same.
        reason: why the value itself cannot be the recording's.
        optional: whether one side may lack it.
    """

    path: str
    still: Check
    reason: str
    optional: bool = False


IGNORED: Final = (
    Ignored("frame:*/data/timestamp", same_type, "the clock, in ms"),
    Ignored("body:GET */history*/status/messages/*/1/timestamp", same_type, "the clock, in ms"),
    Ignored("header:*:Date", same_type, "the clock"),
    Ignored("header:*:Last-Modified", same_type, "the clock"),
    Ignored("header:*:Server", same_type, "versions of Python and aiohttp"),
    Ignored("header:*:Sec-Websocket-Accept", same_type, "computed from the client's random key"),
    Ignored(
        "header:*:Content-Length",
        same_type,
        "the bodies themselves are compared; lengths follow from clock, folders, pixels",
    ),
    Ignored("header:*:Content-Range", same_type, "ends in the size of an image drawn differently"),
    Ignored("header:*:Allow", lambda a, b: set(a.split(",")) == set(b.split(",")), "no order"),
    Ignored("frame:execution_error/data/traceback", texts, "lines of the server's own source"),
    Ignored("body:GET */history*/status/messages/*/1/traceback", texts, "lines of the server's source"),
    Ignored("body:POST */prompt:*/extra_info/traceback", texts, "lines of the server's source"),
    Ignored(
        "frame:execution_error/data/current_inputs/*/*", same_unless_tensor, "the print of a tensor shows its pixels"
    ),
    Ignored("body:GET */history*/1/current_inputs/*/*", same_unless_tensor, "the print of a tensor shows its pixels"),
    Ignored("body:GET */system_stats:system/*_version", version, "versions"),
    Ignored("body:GET */system_stats:system/argv", texts, "how this server was started"),
    Ignored("body:GET */system_stats:system/ram_*", same_type, "this machine's memory"),
    Ignored("body:GET /internal/logs/raw:entries", same_keys, "the server's own log"),
    Ignored("body:GET /internal/folder_paths:", texts_by_key, "where this machine's models are"),
    Ignored("body:GET /experiment/models:*/folders", texts, "where this machine's models are"),
    Ignored("body:GET /extensions:", all_texts, "files of the web page, which is another package"),
    Ignored("body:GET /:", same_type, "the web page, which is another package"),
    Ignored("header:GET /:", same_media_type, "the page is a file there, and a text here"),
    Ignored("body:GET */system_stats:devices/*", same_shape, "this machine's device"),
    *(
        Ignored(path, prose, "ComfyUI's own prose, which is left out of recordings", optional=True)
        for path in (
            "body:GET */object_info*:*/description",
            "body:GET */object_info*:*/output_tooltips",
            "body:GET */object_info*:*/1/tooltip",
            "body:POST */prompt:node_errors/*/input_config/1/tooltip",
        )
    ),
)


#: Lists compared without their order: ComfyUI makes them from sets, whose order changes with
#: the hash seed of every process (the real server differs from its own recording here).
UNORDERED: Final = (
    "frame:execution_*/data/executed",
    "frame:execution_error/data/current_outputs",
    "body:GET */history*/messages/*/1/executed",
    "body:GET */history*/messages/*/1/current_outputs",
    "body:GET */history*/prompt/4",  # ids of the outputs to run
    "body:GET */queue:*/4",
    "body:POST */prompt:node_errors/*/errors",  # several wrong inputs of one node
)


def in_order(path: str, items: list[Any]) -> list[Any]:
    """``items`` as they stand or, where they have no order, sorted."""
    if not any(fnmatchcase(path, pattern) for pattern in UNORDERED):
        return items
    return sorted(items, key=lambda item: str(item.get("details") if isinstance(item, dict) else item))


#: Only for a ComfyUI that has run other prompts before and was not started for the recording.
USED_SERVER: Final = (
    Ignored("body:POST */prompt:number", same_type, "its counter stands elsewhere"),
    Ignored("body:GET */queue:*/0", same_type, "its counter stands elsewhere"),
    Ignored("body:GET */history*/prompt/0", same_type, "its counter stands elsewhere"),
    Ignored("*/filename", same_type, "its folder has images already"),
)

_rules: list[Ignored] = list(IGNORED)


@contextmanager
def on_used_server(used: bool) -> Iterator[None]:
    """Compare with ``USED_SERVER`` in the list as well, if ``used``."""
    if used:
        _rules.extend(USED_SERVER)
    try:
        yield
    finally:
        _rules[:] = IGNORED


def rule_for(path: str) -> Ignored | None:
    """The entry for ``path``, if it is ignored."""
    return next((rule for rule in _rules if fnmatchcase(path, rule.path)), None)
