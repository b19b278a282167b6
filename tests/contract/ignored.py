"""Which values are not compared with a recording: ``ignored.toml`` is the only list of them."""

import tomllib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
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


def texts(recorded: Any, seen: Any) -> bool:
    """Whether both are lists of texts, and both are empty or neither is."""
    is_texts = isinstance(seen, list) and all(isinstance(item, str) for item in seen)
    return is_texts and bool(recorded) == bool(seen)


def same_media_type(recorded: Any, seen: Any) -> bool:
    """Whether both headers name one media type, with any character set."""
    types = [headers.get("Content-Type", "").partition(";")[0] for headers in (recorded, seen)]
    return bool(types[0] == types[1])


def same_members(recorded: Any, seen: Any) -> bool:
    """Whether both headers list the same, in any order."""
    return set(recorded.split(",")) == set(seen.split(","))


_TENSORS: Final = ("tensor(", "{'samples': tensor(")


def same_unless_tensor(recorded: Any, seen: Any) -> bool:
    """Whether both are equal, or both are the print of a tensor, or of a latent."""
    if isinstance(recorded, str) and (
        print_of := next(filter(recorded.startswith, _TENSORS), None)
    ):
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


def only_seen(recorded: Any, seen: Any) -> bool:
    return recorded is ABSENT


class Ignored(NamedTuple):
    """A place in answers or frames whose value is not compared, but must ``still`` pass a check.

    ``path`` is ``frame:<type>/<keys>``, ``body:<METHOD> <path>:<keys>`` or ``header:<METHOD>
    <path>:<name>``.
    """

    path: str
    still: Check
    optional: bool  # one side may lack it


_FILE: Final = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
IGNORED: Final = tuple(
    Ignored(path, globals()[rule["check"]], rule.get("optional", False))
    for rule in _FILE["values"]
    for path in rule["paths"]
)
COMPARED: Final[list[str]] = _FILE["compared"]["places"]


def in_order(path: str, items: list[Any]) -> list[Any]:
    """``items`` as they stand or, where they have no order, sorted."""
    if not any(fnmatchcase(path, pattern) for pattern in _FILE["lists"]["unordered"]):
        return items
    return sorted(
        items, key=lambda item: str(item.get("details") if isinstance(item, dict) else item)
    )


def rule_for(path: str) -> Ignored | None:
    """The entry for ``path``, if it is ignored."""
    return next((rule for rule in IGNORED if fnmatchcase(path, rule.path)), None)
