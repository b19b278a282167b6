"""A recording of a real ComfyUI as a list of steps: what its client did, and what it had seen by then.

A recording holds every request, answer and frame in the order in which one client program saw them.
What the program did (requests, sockets opened and closed, messages sent) becomes steps; what came
back is what a server must repeat. A step also says how much every open socket had received when it
was taken: nothing that arrived before a request can depend on it, so a replay may always wait for it.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recordings"
A_STEP = 0.12  # seconds; the recorded samplers report every 0.1 s, so more than that is a silence
LONGEST_PAUSE = 0.3  # seconds; the recorder's silences last up to 27 s and show no more for it

Event = dict[str, Any]
PROGRESS = frozenset({"progress", "progress_state", "preview"})


@dataclass(frozen=True, slots=True)
class Seen:
    """What a socket has received.

    Attributes:
        landmarks: frames other than progress, closes included.
        run: progress frames since the last landmark.
    """

    landmarks: int = 0
    run: int = 0

    def reached(self, wanted: Seen) -> bool:
        """Whether a socket that has received this much is as far as ``wanted``."""
        return self.landmarks > wanted.landmarks or (self.landmarks == wanted.landmarks and self.run >= wanted.run)


@dataclass(frozen=True, slots=True)
class Step:
    """One deed of the recorded client.

    Attributes:
        deed: ``request``, ``connect``, ``send``, ``close`` or ``note`` (what was done off the wire).
        event: the recorded event.
        answer: the recorded answer of a ``request`` or ``connect``, else None.
        seen: by socket, what it had received when the deed was done.
        pause: seconds for which the recorder had been silent before, if it had.
    """

    deed: str
    event: Event
    answer: Event | None
    seen: dict[str, Seen]
    pause: float


@dataclass(frozen=True, slots=True)
class Recording:
    """Steps, and the frames each socket received.

    Attributes:
        frames: by socket, the events received while the client still listened.
        late: by socket, the events that arrived after the client's own close.
    """

    name: str
    steps: list[Step]
    frames: dict[str, list[Event]] = field(default_factory=dict)
    late: dict[str, list[Event]] = field(default_factory=dict)


def names() -> list[str]:
    """Every recorded scenario, in order."""
    return sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz") if path.name[0].isdigit())


def load_json(name: str) -> Any:
    """The JSON document ``name`` among the recordings."""
    return json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))


def load_events(name: str) -> list[Event]:
    """The events of the recording ``name``; the one long body it cut is put back."""
    events: list[Event] = load_json(name)["events"]
    for event in events:
        if str(event.get("body_truncated")).startswith('{"KSampler"'):
            event["body"] = load_json("object_info")
    return events


def from_events(name: str, events: list[Event]) -> Recording:
    """Sort recorded events into steps and received frames."""
    recording = Recording(name, [])
    closing: set[str] = set()
    for index, event in enumerate(events):
        if event["dir"] == "note" and event["text"] == "server process alive: True":
            break  # the recorder stopped the server after this
        if event["dir"] == "ws-recv":
            _receive(recording, event, closing)
        elif event["dir"] != "http-response":
            _act(recording, events, index, closing)
    return recording


def _receive(recording: Recording, event: Event, closing: set[str]) -> None:
    socket = event["client"]
    if event.get("closed") == "CLOSING" or socket in closing:
        if "closed" not in event:
            recording.late[socket].append(event)
        return  # our own close, seen by the recorder's client library
    recording.frames[socket].append(event)


def _act(recording: Recording, events: list[Event], index: int, closing: set[str]) -> None:
    event = events[index]
    deed, socket = _deed(event), str(event.get("client"))
    seen = {s: seen_in(f) for s, f in recording.frames.items() if s not in closing}
    silence = event["t"] - events[index - 1]["t"] if index else 0.0
    answer = _answer(events, index) if event["dir"] == "http-request" else None
    pause = min(silence, LONGEST_PAUSE) if silence > A_STEP else 0.0
    recording.steps.append(Step(deed, event, answer, seen, pause))
    if deed == "connect":
        recording.frames[socket], recording.late[socket] = [], []
    elif deed == "close":
        closing.add(socket)


def _deed(event: Event) -> str:
    if event["dir"] == "http-request":
        return "connect" if event.get("upgrade") else "request"
    if event["dir"] == "ws-send":
        return "close" if event.get("close") else "send"
    return "note"


def _answer(events: list[Event], index: int) -> Event:
    """The answer to the request at ``index``: the recorder never had two requests open."""
    return next(e for e in events[index:] if e["dir"] == "http-response")


def kind(event: Event) -> str:
    """What an event received on a socket is: a frame's type, ``preview``, ``text`` or ``closed``."""
    if "frame" in event:
        return str(event["frame"]["type"])
    if event.get("binary"):
        return "text" if event["event_type"] == 3 else "preview"
    return "closed"


def seen_in(events: list[Event]) -> Seen:
    """Count what stands in ``events``."""
    seen = Seen()
    for event in events:
        seen = Seen(seen.landmarks, seen.run + 1) if kind(event) in PROGRESS else Seen(seen.landmarks + 1, 0)
    return seen
