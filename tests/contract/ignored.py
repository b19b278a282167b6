"""The only list of values that are not compared with a recording, each with its reason."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

Check = Callable[[Any, Any], bool]


def same_shape(recorded: Any, seen: Any) -> bool:
    """Whether both have the same JSON types, and the same keys, however deep."""
    if isinstance(recorded, dict) and isinstance(seen, dict):
        same_keys = recorded.keys() == seen.keys()
        return same_keys and all(same_shape(recorded[key], seen[key]) for key in recorded)
    if isinstance(recorded, list) and isinstance(seen, list):
        return len(recorded) == len(seen) and all(map(same_shape, recorded, seen))
    return type(recorded) is type(seen)


def all_texts(recorded: Any, seen: Any) -> bool:
    return isinstance(seen, list) and all(isinstance(item, str) for item in seen)


def texts(recorded: Any, seen: Any) -> bool:
    """Whether both are lists of texts, and both are empty or neither is."""
    return all_texts(recorded, seen) and bool(recorded) == bool(seen)


def texts_by_key(recorded: Any, seen: Any) -> bool:
    same = isinstance(seen, dict) and seen.keys() == recorded.keys()
    return same and all(texts(recorded[key], seen[key]) for key in recorded)


def same_media_type(recorded: Any, seen: Any) -> bool:
    """Whether both headers name one media type, with any character set."""
    types = [headers.get("Content-Type", "").partition(";")[0] for headers in (recorded, seen)]
    return bool(types[0] == types[1])


_TENSORS: Final = ("tensor(", "{'samples': tensor(")


def same_unless_tensor(recorded: Any, seen: Any) -> bool:
    """Whether both are equal, or both are the print of a tensor, or of a latent."""
    if isinstance(recorded, str) and (print_of := next(filter(recorded.startswith, _TENSORS), None)):
        return isinstance(seen, str) and seen.startswith(print_of)
    return bool(type(recorded) is type(seen) and recorded == seen)


def same_keys(recorded: Any, seen: Any) -> bool:
    """Whether both are lists of mappings with the same keys, however many."""
    keys = {frozenset(item) for item in recorded}
    return isinstance(seen, list) and all(frozenset(item) in keys for item in seen)


def version(recorded: Any, seen: Any) -> bool:
    """Whether it is a text, or null for what is not installed."""
    return seen is None or isinstance(seen, str)


ABSENT: Final = object()  # stands for the value of a key that one side lacks


def prose(recorded: Any, seen: Any) -> bool:
    """Each is a text, a list (of texts and nulls), or not there at all."""
    return all(value is ABSENT or isinstance(value, str | list) for value in (recorded, seen))


class Ignored(NamedTuple):
    """A place in answers or frames whose value is not compared, but must ``still`` pass a check.

    ``path`` is ``frame:<type>/<keys>``, ``body:<METHOD> <path>:<keys>`` or ``header:<METHOD> <path>:<name>``.
    """

    path: str
    still: Check
    optional: bool  # one side may lack it


#: What is demanded of the value all the same, why it cannot be the recording's, and where it is.
_RULES: Final[tuple[tuple[Check, str, *tuple[str, ...]], ...]] = (
    (
        same_shape,
        "the clock",
        "frame:*/data/timestamp",
        "body:GET */history*/status/messages/*/1/timestamp",
        "body:GET */jobs*/timestamp",
        "body:GET */jobs*_time",
        "body:GET */queue:*/create_time",
        "body:GET */history*/create_time",
        "header:*:Date",
        "header:*:Last-Modified",
    ),
    (same_shape, "versions of Python and aiohttp", "header:*:Server"),
    (same_shape, "computed from the client's random key", "header:*:Sec-Websocket-Accept"),
    (same_shape, "follows from clock, folders, pixels", "header:*:Content-Length"),
    (same_shape, "ends in the size of an image drawn differently", "header:*:Content-Range"),
    (lambda a, b: set(a.split(",")) == set(b.split(",")), "no order", "header:*:Allow"),
    (
        texts,
        "lines of the server's own source",
        "frame:execution_error/data/traceback",
        "body:GET */history*/status/messages/*/1/traceback",
        "body:GET */jobs*/traceback",
        "body:POST */prompt:*/extra_info/traceback",
    ),
    (
        same_unless_tensor,
        "the print of a tensor shows its pixels",
        "frame:execution_error/data/current_inputs/*/*",
        "body:GET */history*/1/current_inputs/*/*",
        "body:GET */jobs*/current_inputs/*/*",
        "frame:executed/data/output/text/*",
        "body:GET */history*/text/*",
        "body:GET */jobs*/text/*",
        "body:GET */jobs*preview_output/content",
    ),
    (version, "versions", "body:GET */system_stats:system/*_version"),
    (same_keys, "versions", "body:GET */system_stats:system/comfy_package_versions"),
    (texts, "how this server was started", "body:GET */system_stats:system/argv"),
    (prose, "the recorded server was started with --disable-api-nodes", "header:*:Content-Security-Policy"),
    (same_shape, "this machine's memory", "body:GET */system_stats:system/ram_*"),
    (same_shape, "this machine's device", "body:GET */system_stats:devices/*"),
    (same_keys, "the server's own log", "body:GET /internal/logs/raw:entries"),
    (texts_by_key, "where this machine's models are", "body:GET /internal/folder_paths:"),
    (texts, "where this machine's models are", "body:GET /experiment/models:*/folders"),
    (all_texts, "files of the web page, another package", "body:GET /extensions:"),
    (same_shape, "the web page, another package", "body:GET /:"),
    (same_media_type, "the page is a file there, and a text here", "header:GET /:"),
    (
        prose,
        "ComfyUI's own prose, which is left out of recordings",
        "body:GET */object_info*:*/description",
        "body:GET */object_info*:*/output_tooltips",
        "body:GET */object_info*:*/1/tooltip",
        "body:POST */prompt:node_errors/*/input_config/1/tooltip",
    ),
)
IGNORED: Final = tuple(Ignored(path, still, still is prose) for still, _, *paths in _RULES for path in paths)


#: Lists compared without their order: ComfyUI makes them from sets, whose order changes with
#: the hash seed of every process (the real server differs from its own recording here).
UNORDERED: Final = (
    "frame:execution_*/data/executed",
    "frame:execution_error/data/current_outputs",
    "body:GET */history*/messages/*/1/executed",
    "body:GET */history*/messages/*/1/current_outputs",
    "body:GET */jobs*/executed",
    "body:GET */jobs*/current_outputs",
    "body:GET */history*/prompt/4",  # ids of the outputs to run
    "body:GET */queue:*/4",
    "body:POST */prompt:node_errors/*/errors",  # several wrong inputs of one node
)


def in_order(path: str, items: list[Any]) -> list[Any]:
    """``items`` as they stand or, where they have no order, sorted."""
    if not any(fnmatchcase(path, pattern) for pattern in UNORDERED):
        return items
    return sorted(items, key=lambda item: str(item.get("details") if isinstance(item, dict) else item))


def rule_for(path: str) -> Ignored | None:
    """The entry for ``path``, if it is ignored."""
    return next((rule for rule in IGNORED if fnmatchcase(path, rule.path)), None)
