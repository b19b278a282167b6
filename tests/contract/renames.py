"""Names that a server generates in each run: the third prompt id of a recording is the third of its
replay.

Requests carry the replay's names; answers and frames are compared with both replaced by one alias.
"""

import json
import re
from typing import Any

from tests.contract.recording import Event

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SID = re.compile(r"[0-9a-f]{32}")
TEMP = re.compile(r"ComfyUI_temp_[a-z]{5}_")


class Names:
    """The made-up names of one run, by kind and turn."""

    def __init__(self) -> None:
        self._aliases: dict[str, str] = {}
        self._turns: dict[str, int] = {}

    def learn_answer(self, request: Event, answer: Event) -> None:
        body, sent = answer.get("body"), request.get("body")
        if isinstance(body, dict) and UUID4.fullmatch(str(body.get("prompt_id"))):
            is_own = isinstance(sent, dict) and sent.get("prompt_id") == body["prompt_id"]
            if not is_own:  # the client's own id is the same in each run
                self._learn("prompt", body["prompt_id"])
        etag = _header(answer, "etag")
        if etag:
            self._learn("etag", etag)

    def learn_frame(self, event: Event) -> None:
        """Take the socket id of a first frame, and the prefix of temporary images."""
        frame = event.get("frame")
        if not isinstance(frame, dict):
            return
        sid = frame["data"].get("sid")
        if isinstance(sid, str) and SID.fullmatch(sid):
            self._learn("sid", sid)
        if frame["type"] == "executed":
            for prefix in TEMP.findall(json.dumps(frame)):
                self._learn("temp", prefix)

    def alias(self, text: str) -> str:
        """``text`` with every known name replaced by its alias."""
        for name, alias in self._aliases.items():
            text = text.replace(name, alias)
        return text

    def actual(self, text: str) -> str:
        """``text`` with every alias replaced by this run's name."""
        for name, alias in self._aliases.items():
            text = text.replace(alias, name)
        return text

    def plain(self, value: Any) -> Any:
        """A JSON value with its names replaced by aliases, in keys as well."""
        if isinstance(value, str):
            return self.alias(value)
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if isinstance(value, dict):
            return {self.alias(key): self.plain(item) for key, item in value.items()}
        return value

    def _learn(self, kind: str, name: str) -> None:
        if name not in self._aliases:
            turn = self._turns[kind] = self._turns.get(kind, -1) + 1
            self._aliases[name] = f"<{kind} {turn}>"


def of(events: list[Event]) -> Names:
    names, request = Names(), {}
    for event in events:
        if event["dir"] == "http-request":
            request = event
        elif event["dir"] == "http-response":
            names.learn_answer(request, event)
        elif event["dir"] == "ws-recv":
            names.learn_frame(event)
    return names


def _header(answer: Event, name: str) -> str | None:
    headers: dict[str, str] = answer.get("headers", {})
    return next((value for key, value in headers.items() if key.lower() == name), None)
