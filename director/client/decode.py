"""Converts JSON values to the client's types; a value of another form raises ``UnexpectedAnswer``."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from director.client.errors import UnexpectedAnswer

T = TypeVar("T")


def load(content: bytes | str) -> dict[str, Any]:
    """Return the JSON object in ``content``.

    The standard library's parser reads integers of any size, so that ``metadata`` is returned
    unchanged.
    """
    try:
        return as_object(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswer(f"The server's answer is not JSON: {error}") from error


def as_object(value: Any) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object."""
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"Expected a JSON object, got {type(value).__name__}.")
    return value


def as_objects(value: Any) -> Sequence[dict[str, Any]]:
    """Return the objects in a JSON array."""
    if not isinstance(value, list):
        raise UnexpectedAnswer(f"Expected a JSON array, got {type(value).__name__}.")
    return [as_object(entry) for entry in value]


def build(kind: type[T], fields: dict[str, Any]) -> T:
    """Return a ``kind`` made of ``fields``; unknown names are ignored."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise UnexpectedAnswer(f"Not a {kind.__name__}: {error}") from error


def parser(kind: type[T]) -> Callable[[Any], T]:
    """Return a function that makes a ``kind`` of a JSON object, which it keeps as ``raw``."""
    return lambda value: build(kind, {**as_object(value), "raw": value})
