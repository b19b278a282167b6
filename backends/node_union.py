"""One description of a node class from those of several machines, as in ``/object_info``. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

_CATEGORIES: Final = ("required", "optional")
_COMBO: Final = "COMBO"
_CHOICES_OF_INPUTS: Final = "COMFY_DYNAMICCOMBO_V3"
_MAX_NESTED: Final = 8  #: Levels of inputs that depend on a choice.

Described = Mapping[str, Any]


def union(descriptions: Sequence[Described]) -> Described:
    """Return the first description, that of the newest machine, with the choices of all."""
    newest, *others = descriptions
    return {**newest, "input": _inputs(newest.get("input"), [one.get("input") for one in others])}


def _inputs(declared: Any, others: Sequence[Any], depth: int = 0) -> Any:
    if not isinstance(declared, dict) or depth > _MAX_NESTED:
        return declared
    merged = dict(declared)
    for category in _CATEGORIES:
        if not isinstance(of_category := declared.get(category), dict):
            continue
        merged[category] = {
            # An input may be required in one version and optional in another.
            name: _entry(entry, [found for other in others if (found := _find(other, name))], depth)
            for name, entry in of_category.items()
        }
    return merged


def _find(declared: Any, name: str) -> Any:
    if not isinstance(declared, dict):
        return None
    return next(
        (
            of_category[name]
            for category in _CATEGORIES
            if isinstance(of_category := declared.get(category), dict) and name in of_category
        ),
        None,
    )


def _entry(entry: Any, others: Sequence[Any], depth: int) -> Any:
    if (listed := choices(entry)) is not None:
        united = unique([listed, *(found for other in others if (found := choices(other)))])
        return with_choices(entry, united)
    options = _options(entry)
    if options is None or entry[0] != _CHOICES_OF_INPUTS:
        return entry
    by_key: dict[Any, list[Any]] = {}
    for option in _dynamic(entry, *others):
        by_key.setdefault(option["key"], []).append(option)
    united = [
        {
            **first,
            "inputs": _inputs(first.get("inputs"), [o.get("inputs") for o in rest], depth + 1),
        }
        for first, *rest in by_key.values()
    ]
    return [entry[0], {**options, "options": united}, *entry[2:]]


def _dynamic(*entries: Any) -> Iterator[dict[str, Any]]:
    for entry in entries:
        listed = (_options(entry) or {}).get("options")
        for option in listed if isinstance(listed, list) else ():
            if isinstance(option, dict) and isinstance(option.get("key"), str):
                yield option


def _options(entry: Any) -> dict[str, Any] | None:
    has_options = isinstance(entry, list) and len(entry) > 1 and isinstance(entry[1], dict)
    return entry[1] if has_options else None


def choices(entry: Any) -> list[Any] | None:
    """Return the choices of an input's description; None if it is no list to choose from."""
    if not isinstance(entry, list) or not entry:
        return None
    if isinstance(entry[0], list):
        return entry[0]
    listed = (_options(entry) or {}).get("options") if entry[0] == _COMBO else None
    return listed if isinstance(listed, list) else None


def with_choices(entry: list[Any], listed: list[Any]) -> list[Any]:
    """Return an input's description, which has choices, with others."""
    if isinstance(entry[0], list):
        return [listed, *entry[1:]]
    return [entry[0], {**entry[1], "options": listed}, *entry[2:]]


def unique(lists: Iterable[Iterable[Any]]) -> list[Any]:
    """Return the entries of lists in their order, each once; an entry may be any JSON value."""
    entries: dict[str, Any] = {}
    for listed in lists:
        for entry in listed:
            # True == 1 in Python, not in JSON.
            entries.setdefault(entry if isinstance(entry, str) else f"\0{entry!r}", entry)
    return list(entries.values())


def upload_kinds(described: Described) -> dict[tuple[str, str], frozenset[str]]:
    """Return the inputs whose choices are uploaded files, by (category, name): the flags of each,
    such as ``image_upload``.
    """
    declared = described.get("input")
    if not isinstance(declared, dict):
        return {}
    found = {}
    for category in _CATEGORIES:
        of_category = declared.get(category)
        for name, entry in of_category.items() if isinstance(of_category, dict) else ():
            options: Mapping[str, Any] = _options(entry) or {}
            flags = {flag for flag, value in options.items() if flag.endswith("_upload") and value}
            if flags and choices(entry) is not None:
                found[category, name] = frozenset(flags)
    return found


def with_more_choices(
    described: Described, more: Callable[[frozenset[str]], Iterable[str]]
) -> Described:
    """Return a description whose inputs of uploaded files have more choices, in alphabetical order.

    ``more`` returns those of an input with such flags.
    """
    inputs = dict(described["input"])
    for (category, name), flags in upload_kinds(described).items():
        entry = inputs[category][name]
        listed = sorted(unique([choices(entry) or (), more(flags)]), key=str)
        inputs[category] = {**inputs[category], name: with_choices(entry, listed)}
    return {**described, "input": inputs}
