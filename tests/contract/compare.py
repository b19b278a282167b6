"""Compare what a server answered and sent with a recording. Differences are lines of text."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.contract.ignored import ABSENT, in_order, rule_for
from tests.contract.recording import Event

#: Bytes of a binary body or image that tell what it is: a PNG's, JPEG's or RIFF's signature.
SIGNATURE = {"89504e47": 8, "ffd8ffe0": 4, "52494646": 4}


def values(path: str, recorded: Any, seen: Any) -> Iterator[str]:
    """Differences between two JSON values, ``1`` and ``1.0`` are different."""
    rule = rule_for(path)
    if rule is not None:
        if not rule.still(recorded, seen):
            yield _differ(path, recorded, seen)
    elif isinstance(recorded, dict) and isinstance(seen, dict):
        yield from _mappings(path, recorded, seen)
    elif isinstance(recorded, list) and isinstance(seen, list) and len(recorded) == len(seen):
        for index, pair in enumerate(
            zip(in_order(path, recorded), in_order(path, seen), strict=True)
        ):
            yield from values(_join(path, str(index)), *pair)
    elif type(recorded) is not type(seen) or recorded != seen:
        yield _differ(path, recorded, seen)


def _mappings(path: str, recorded: dict[str, Any], seen: dict[str, Any]) -> Iterator[str]:
    for key in recorded.keys() - seen.keys():
        if not _may_lack(_join(path, key), recorded[key], ABSENT):
            yield f"{_join(path, key)}: missing, recorded {_short(recorded[key])}"
    for key in seen.keys() - recorded.keys():
        if not _may_lack(_join(path, key), ABSENT, seen[key]):
            yield f"{_join(path, key)}: not recorded, seen {_short(seen[key])}"
    for key in recorded.keys() & seen.keys():
        yield from values(_join(path, key), recorded[key], seen[key])


def _may_lack(path: str, recorded: Any, seen: Any) -> bool:
    """Whether one side may lack what the other has, one of them being ABSENT."""
    rule = rule_for(path)
    return rule is not None and rule.optional and rule.still(recorded, seen)


def answers(request: Event, recorded: Event, seen: Event) -> Iterator[str]:
    route = f"{request['method']} {urlsplit(request['path']).path}"
    if "exception" in recorded or "exception" in seen:
        if ("exception" in recorded) != ("exception" in seen):
            yield _differ(route, _outcome(recorded), _outcome(seen))
        return
    if recorded["status"] != seen["status"]:
        yield _differ(f"{route}: status", recorded["status"], seen["status"])
        yield f"  whose body is {_short(_body(seen))}"
        return
    if (
        recorded["headers"] or recorded["status"] != 101
    ):  # of an upgrade, not all recordings have them
        yield from _headers(route, recorded["headers"], seen["headers"])
    yield from _bodies(route, recorded, seen)


def _headers(route: str, recorded: dict[str, str], seen: dict[str, str]) -> Iterator[str]:
    mine = {key.title(): value for key, value in recorded.items()}
    other = {key.title(): value for key, value in seen.items()}
    yield from values(f"header:{route}:", mine, other)


def _bodies(route: str, recorded: Event, seen: Event) -> Iterator[str]:
    mine, other = _body(recorded), _body(seen)
    yield from values(f"body:{route}:", mine, other)
    in_order = route.endswith("/history") and isinstance(mine, dict) and isinstance(other, dict)
    if in_order and list(mine) != list(other):
        yield _differ(f"body:{route}: order", list(mine), list(other))


def _body(answer: Event) -> Any:
    """What an answer's body is compared by; None for an empty one."""
    if "body" in answer:
        return answer["body"]
    if answer.get("binary"):
        return {"binary": signature(answer["head_hex"])}
    return answer.get("body_text") or None


def signature(head_hex: str) -> str:
    """The leading bytes that tell the kind of file, in hex."""
    return head_hex[: 2 * SIGNATURE.get(head_hex[:8], 16)]


def frames(recorded: Event, seen: Event) -> Iterator[str]:
    """Differences between two events of one socket."""
    if ("frame" in recorded) != ("frame" in seen):
        yield _differ("frame", recorded.get("frame"), seen.get("frame"))
    elif "frame" in recorded:
        yield from values(f"frame:{recorded['frame']['type']}", recorded["frame"], seen["frame"])
    else:
        yield from values("binary:", _binary(recorded), _binary(seen))


def _binary(event: Event) -> dict[str, Any]:
    """What a binary frame or a close is compared by: all but lengths and pixels."""
    keys = ("close_code", "event_type", "image_type", "metadata", "node_id", "text")
    kept = {key: event[key] for key in keys if key in event}
    if "image_magic_hex" in event:
        kept["image"] = signature(event["image_magic_hex"])
    return kept


def _outcome(answer: Event) -> str:
    return "no answer" if "exception" in answer else f"answer {answer['status']}"


def _join(path: str, key: str) -> str:
    return f"{path}{key}" if path.endswith(":") else f"{path}/{key}"


def _differ(path: str, recorded: Any, seen: Any) -> str:
    return f"{path}: recorded {_short(recorded)}, seen {_short(seen)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
