"""Decides which frames a client of the ComfyUI listener gets next: those that one ComfyUI would
send. Pure.

Prompts of one client run side by side, and clients of ComfyUI know only one that runs: the prompts
are presented one after another, in the order in which they started. The frames of a prompt that is
not presented yet are kept, of its progress the latest ones.

Frames of the runner are hints, which may be lost or come twice. What is stored decides how a prompt
ended, and when: so a retry shows no error before it, and the history is complete before the end.
"""

import json
import struct
from dataclasses import dataclass, field, replace
from typing import Any, Final

from jobgroups.domain.listener_files import with_job
from jobgroups.domain.prompt_ends import End, Picture
from jobgroups.events.messages import ListenerFrame

#: ComfyUI's frames of an end.
_ENDS: Final = frozenset({"execution_success", "execution_error", "execution_interrupted"})
PREVIEW: Final = "preview"  #: The kind of a binary frame with an image.
TEXT: Final = "text"  #: The kind of a binary frame with a node's text.
STATUS: Final = "status"
PICTURE: Final = "picture"  #: A result that its node sends as a binary frame.
#: Kinds of which a later frame of the same node replaces an earlier one.
PROGRESS: Final = frozenset({"progress_state", "progress", PREVIEW, TEXT})
#: Frames of kinds that the Director does not know, of one prompt, that are kept for later.
_MAX_OTHERS: Final = 200
_JPEG, _PNG = 1, 2
_MEDIA_TYPES: Final = {_JPEG: "image/jpeg", _PNG: "image/png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame for the sockets of a client.

    Attributes:
        key: a later frame with the same key replaces this one while it is not sent; None: it is
            never left out.
        text: of a text frame. Empty: it is binary, or a ``status``, whose number only its sender
            knows.
        binary: of a binary frame, for clients that support previews with metadata.
        plain: of a binary frame, for the others.
        picture: it is to be read from the storage.
        ends: the prompt whose last frame this is.
    """

    kind: str
    key: tuple[str, str] | None = None
    text: str = ""
    binary: bytes = b""
    plain: bytes = b""
    picture: Picture | None = None
    prompt_id: str = ""
    ends: int | None = None

    @property
    def size(self) -> int:
        return len(self.text) + len(self.binary) + len(self.plain)


@dataclass(slots=True, eq=False)
class _Prompt:
    id: int
    prompt_id: str  #: The client's own.
    job_id: str
    attempt: int = 0  #: The newest one of which a frame or a row is known.
    start: Frame | None = None
    cached: Frame | None = None
    #: The frames after these two that a client gets which joins now.
    log: dict[tuple[str, str], Frame] = field(default_factory=dict)
    executed: dict[str, Any] = field(default_factory=dict)  #: By node, what it reported.
    #: ComfyUI's frame of the end of the newest attempt, which has more than what is stored.
    last: ListenerFrame | None = None
    end: End | None = None
    others: int = 0

    @property
    def frames(self) -> list[Frame]:
        return [frame for frame in (self.start, self.cached, *self.log.values()) if frame]

    @property
    def node_now(self) -> str:
        """Return the node that executes, as the client knows it."""
        executing = self.log.get(("executing", ""))
        return "" if executing is None else str(json.loads(executing.text)["data"]["node"])

    def make(self, kind: str, *, key: str | None = None, **data: Any) -> Frame:
        text = json.dumps({"type": kind, "data": data | {"prompt_id": self.prompt_id}})
        replaces = None if key is None else (kind, key)
        return Frame(kind=kind, key=replaces, text=text, prompt_id=self.prompt_id)

    def translate(self, frame: ListenerFrame) -> str:
        return frame.text.replace(frame.prompt_id, self.prompt_id)


class Presentation:
    """What the sockets of one client get. Each method returns the next frames for all of them."""

    def __init__(self) -> None:
        self._prompts: dict[int, _Prompt] = {}
        #: Those that started, in this order, whose end was not presented. The first one is
        #: presented.
        self._started: dict[int, _Prompt] = {}

    def follow(self, prompt: int, *, prompt_id: str, job_id: str) -> None:
        """Know a prompt, by the key of its row."""
        self._prompts.setdefault(prompt, _Prompt(prompt, prompt_id, job_id))

    def __contains__(self, prompt: int) -> bool:
        """Return whether a prompt is known whose last frame was not returned."""
        return prompt in self._prompts

    @property
    def started(self) -> list[int]:
        """The prompts that started and whose end was not presented, by the keys of their rows."""
        return list(self._started)

    def catch_up(self) -> list[Frame]:
        """Return what a socket gets that joins now."""
        presented = next(iter(self._started.values()), None)
        return [] if presented is None else presented.frames

    def start(self, prompt: int, *, attempt: int, started_ms: int) -> list[Frame]:
        """Take in that the attempt of a prompt has started, as it is stored."""
        known = self._prompts.get(prompt)
        if known is None or attempt < known.attempt:
            return []
        return self._begin(known, attempt, started_ms)

    def end(self, prompt: int, end: End) -> list[Frame]:
        """Take in the stored end of a prompt, whose history is complete."""
        known = self._prompts.get(prompt)
        if known is None or known.end is not None:
            return []
        frames: list[Frame] = []
        if known.start is None:
            if end.kind == "execution_interrupted" and end.started_ms is None:
                # ComfyUI sends no frame of a prompt that is removed from its queue.
                del self._prompts[prompt]
                return []
            frames = self._begin(known, end.attempt, end.started_ms or end.ended_ms)
        known.end = end
        return [*frames, *self._advance()]

    def frame(self, prompt: int, frame: ListenerFrame, *, at_ms: int) -> list[Frame]:
        """Take in a frame of the attempt of a prompt; ``at_ms`` is the time."""
        known = self._prompts.get(prompt)
        if known is None or known.end is not None or frame.attempt < known.attempt:
            return []
        if frame.kind == "execution_start":
            return self._begin(known, frame.attempt, at_ms, known.translate(frame))
        begun = self._begin(known, frame.attempt, at_ms)
        if frame.kind in _ENDS and not _is_blocked(frame):
            known.last = frame
            return begun
        new = self._kept(known, frame, at_ms)
        return [*begun, *(new if self._is_presented(known) else ())]

    def _is_presented(self, prompt: _Prompt) -> bool:
        return next(iter(self._started), None) == prompt.id

    def _begin(self, prompt: _Prompt, attempt: int, started_ms: int, text: str = "") -> list[Frame]:
        """Take in that an attempt has started; only the first one is shown."""
        if attempt > prompt.attempt:
            prompt.attempt, prompt.last = attempt, None
            for key in [key for key in prompt.log if key[0] in PROGRESS or key[0] == "executing"]:
                del prompt.log[key]
        if prompt.start is not None:
            return []
        prompt.start = prompt.make("execution_start", timestamp=started_ms)
        if text:
            prompt.start = replace(prompt.start, text=text)
        self._started[prompt.id] = prompt
        return [prompt.start] if self._is_presented(prompt) else []

    def _kept(self, prompt: _Prompt, frame: ListenerFrame, at_ms: int) -> list[Frame]:
        """Keep a frame for those who join later, and return what is new; ComfyUI lists the cached
        nodes before every other frame.
        """
        if frame.kind == "execution_cached":
            if prompt.cached is not None:
                return []
            prompt.cached = Frame(
                kind=frame.kind, text=prompt.translate(frame), prompt_id=prompt.prompt_id
            )
            return [prompt.cached]
        new = self._translated(prompt, frame)
        if new is None:
            return []
        before = []
        if prompt.cached is None:
            prompt.cached = prompt.make("execution_cached", nodes=[], timestamp=at_ms)
            before = [prompt.cached]
        return [*before, new]

    def _translated(self, prompt: _Prompt, frame: ListenerFrame) -> Frame | None:
        """Return a frame as the client gets it, None if it has the same already."""
        key = (frame.kind, frame.node)
        if frame.data:
            new = _binary_frame(prompt, frame)
        elif frame.kind == "executed":
            new = self._executed(prompt, frame)
        elif frame.kind in ("executing", *PROGRESS):
            # The steps of all nodes are one state.
            key = (frame.kind, "")
            new = Frame(kind=frame.kind, text=prompt.translate(frame))
        else:
            prompt.others += 1
            key = (frame.kind, f"#{prompt.others}")
            prompt.log.pop((frame.kind, f"#{prompt.others - _MAX_OTHERS}"), None)
            new = Frame(kind=frame.kind, text=prompt.translate(frame))
        new = replace(new, prompt_id=prompt.prompt_id, key=key if frame.kind in PROGRESS else None)
        if prompt.log.get(key) == new:
            return None
        prompt.log.pop(key, None)
        prompt.log[key] = new
        return new

    def _executed(self, prompt: _Prompt, frame: ListenerFrame) -> Frame:
        message = json.loads(prompt.translate(frame))
        data = message["data"]
        data["output"] = prompt.executed[frame.node] = with_job(data.get("output"), prompt.job_id)
        return Frame(kind=frame.kind, text=json.dumps(message))

    def _advance(self) -> list[Frame]:
        """Return the last frames of the presented prompt if it has ended, and those of the next
        ones.
        """
        frames: list[Frame] = []
        while self._started:
            presented = next(iter(self._started.values()))
            if presented.end is None:
                break
            frames += _closing(presented, presented.end)
            del self._started[presented.id], self._prompts[presented.id]
            frames += self.catch_up()
        return frames


def _closing(prompt: _Prompt, end: End) -> list[Frame]:
    """Return the last frames of a prompt: what was lost on the way, its pictures, its end."""
    frames = []
    if prompt.cached is None:
        frames.append(
            prompt.make("execution_cached", nodes=list(end.cached), timestamp=end.ended_ms)
        )
    for node, output in end.outputs.items():
        if prompt.executed.get(node) != output:
            frames.append(prompt.make("executed", node=node, display_node=node, output=output))
    node_now = prompt.node_now
    for picture in end.pictures:
        if picture.node != node_now:
            node_now = picture.node
            frames.append(prompt.make("executing", node=node_now, display_node=node_now))
        frames.append(Frame(kind=PICTURE, picture=picture, prompt_id=prompt.prompt_id))
    frames.append(_end_frame(prompt, end))
    frames.append(Frame(kind=STATUS))
    frames.append(replace(prompt.make("executing", node=None), ends=prompt.id))
    return frames


def _is_blocked(frame: ListenerFrame) -> bool:
    """Return whether an error reports only a blocked node, whose prompt continues."""
    return (
        frame.kind == "execution_error"
        and json.loads(frame.text)["data"].get("exception_type") == "ExecutionBlocked"
    )


def _end_frame(prompt: _Prompt, end: End) -> Frame:
    last = prompt.last
    if last is not None and last.kind == end.kind and last.attempt == end.attempt:
        return Frame(kind=end.kind, text=prompt.translate(last), prompt_id=prompt.prompt_id)
    where: dict[str, Any] = {}
    if end.kind == "execution_interrupted" and prompt.node_now in end.classes:
        # The Director has stored the stop before the machine has ended the node.
        cached = json.loads(prompt.cached.text)["data"]["nodes"] if prompt.cached else ()
        executed = [node for node in prompt.executed if node not in cached]
        node_type = end.classes[prompt.node_now]
        where = {"node_id": prompt.node_now, "node_type": node_type, "executed": executed}
    return prompt.make(end.kind, **{**end.message, **where})


def _binary_frame(prompt: _Prompt, frame: ListenerFrame) -> Frame:
    """Return an image in ComfyUI's two forms; a text has only one."""
    (kind,) = struct.unpack_from(">I", frame.data)
    if kind == 4:
        (length,) = struct.unpack_from(">I", frame.data, 4)
        metadata = frame.data[8 : 8 + length].replace(
            frame.prompt_id.encode(), prompt.prompt_id.encode()
        )
        image_type = _PNG if json.loads(metadata).get("image_type") == "image/png" else _JPEG
        return _image_frame(metadata, frame.data[8 + length :], image_type)
    if kind == 1:
        (image_type,) = struct.unpack_from(">I", frame.data, 4)
        metadata = image_metadata(prompt.prompt_id, frame.node, image_type)
        return _image_frame(metadata, frame.data[8:], image_type)
    return Frame(kind=TEXT, binary=frame.data, plain=frame.data)


def image_metadata(prompt_id: str, node: str, image_type: int) -> bytes:
    """Return what ComfyUI sends with an image of a node."""
    metadata = {
        "node_id": node,
        "prompt_id": prompt_id,
        "display_node_id": node,
        "parent_node_id": None,
        "real_node_id": node,
        "image_type": _MEDIA_TYPES.get(image_type, _MEDIA_TYPES[_JPEG]),
    }
    return json.dumps(metadata).encode()


def with_metadata(metadata: bytes, image: bytes) -> bytes:
    """Return the frame of an image for clients that support metadata."""
    return struct.pack(">II", 4, len(metadata)) + metadata + image


def without_metadata(image: bytes, image_type: int) -> bytes:
    """Return the frame of an image for other clients."""
    return struct.pack(">II", 1, image_type) + image


def _image_frame(metadata: bytes, image: bytes, image_type: int) -> Frame:
    return Frame(
        kind=PREVIEW,
        binary=with_metadata(metadata, image),
        plain=without_metadata(image, image_type),
    )


def deleted_end(at_ms: int) -> End:
    """Return the end of a prompt whose group was deleted before its end was read."""
    return End(
        attempt=0,
        started_ms=None,
        ended_ms=at_ms,
        kind="execution_interrupted",
        message={"node_id": "", "node_type": "", "executed": [], "timestamp": at_ms},
    )
