"""``child_preview``: for sockets with ``previews=1``, of running children only."""

import asyncio
import base64
import json
import struct
import time
from types import SimpleNamespace
from typing import Any

import pytest

from backends.comfyui.event_socket import EventSocket, Tap
from backends.comfyui.protocol import Preview
from jobgroups.events.hub import Hub, hub as process_hub
from jobgroups.events.messages import Message, PreviewFrame
from jobgroups.runner.attempt.pictures import SentPictures
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.session.previews import MIN_INTERVAL, SessionPreviews
from jobgroups.serializers import to_json
from jobgroups.streams.stream import ChildHead, Frame, Stream
from tests.ws.clients import watching
from tests.ws.conftest import Writer


async def _no_seqs(_: list[str]) -> dict[str, tuple[int, bool]]:
    return {}


@pytest.fixture
async def hub() -> Any:
    made = Hub()
    made.bind(asyncio.get_running_loop(), read_seqs=_no_seqs)
    yield made
    await made.aclose()


def course(attempt_id: int, child: str, group: str = "g") -> AttemptSpec:
    return AttemptSpec(
        attempt_id=attempt_id,
        number=1,
        prompt_id=f"p-{child}",
        client_id="c",
        group_id=group,
        child_id=child,
        timeout_s=30,
        workflow={},
    )


class Showing:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.drivers = {
            number: SimpleNamespace(
                spec=course(number, f"j_{number}"),
                machine=SimpleNamespace(
                    prompt_id=f"p-j_{number}",
                    stop_pending=False,
                    evidence=SimpleNamespace(is_executing=False),
                ),
                pictures=SentPictures({}),
            )
            for number in (1, 2)
        }
        self.previews = SessionPreviews(hub, "gpu-1", self.drivers)  # type: ignore[arg-type]

    def publish(self, image: bytes = b"x", prompt_id: str | None = None) -> None:
        self.previews.publish(Preview(image_type="jpeg", image=image, prompt_id=prompt_id))


async def _taken(subscription: Any, within: float = 30.0) -> list[dict[str, Any]]:
    async with asyncio.timeout(within):
        return [json.loads(entry.text) for entry in await subscription.take()]


async def test_frame_is_not_decoded_without_a_subscriber(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("backends.comfyui.protocol._parse_binary", decode)
    wanted = [False, True]
    socket = EventSocket(None, None, "c", lambda: wanted.pop(0), Tap())  # type: ignore[arg-type]
    frame = struct.pack(">II", 1, 1) + b"jpeg"
    assert socket._event(frame) is None
    with pytest.raises(AssertionError, match="decoded"):
        socket._event(frame)


async def test_preview_names_its_child(hub: Hub) -> None:
    """By the frame's prompt id, else by the prompt that executes; another client's is not shown."""
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)

    async def shown(image: bytes, prompt_id: str | None = None) -> dict[str, Any]:
        showing.publish(image, prompt_id)
        (frame,) = await _taken(watching)
        return frame

    assert await shown(b"picture", "p-j_2") == {
        "type": "child_preview",
        "job_id": "j_2",
        "backend_id": "gpu-1",
        "attempt": 1,
        "mime": "image/jpeg",
        "image": base64.b64encode(b"picture").decode(),
    }
    showing.publish(b"of no prompt of ours")
    showing.drivers[2].machine.evidence.is_executing = True
    assert (await shown(b"x"))["job_id"] == "j_2"
    showing.drivers[2].machine.evidence.is_executing = False
    showing.publish(b"foreign")
    showing.drivers[1].machine.evidence.is_executing = True
    showing.publish(b"foreign", "another client's")
    frame = await shown(b"ours")
    assert (frame["job_id"], base64.b64decode(frame["image"])) == ("j_1", b"ours")


async def test_latest_preview_is_sent_four_times_a_second(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    begun = time.monotonic()
    for number in range(100):
        showing.publish(str(number).encode(), "p-j_1")
    images = []
    while len(images) < 2:
        images += [base64.b64decode(frame["image"]) for frame in await _taken(watching)]
    assert images == [b"0", b"99"]
    assert time.monotonic() - begun >= MIN_INTERVAL * 0.9


async def test_preview_above_the_frame_limit_is_dropped(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    showing.publish(bytes(800_000), "p-j_1")
    showing.publish(bytes(700_000), "p-j_2")
    frames = await _taken(watching)
    assert [frame["job_id"] for frame in frames] == ["j_2"]


def test_preview_is_sent_for_the_running_attempt_only() -> None:
    stream = Stream(1, [ChildHead("j_1", "queued", 0.0, 0)])
    frame = PreviewFrame("j_1", 1, "picture")
    assert stream.preview(frame) == []
    stream.event(2, '{"type": "child_started", "job_id": "j_1", "attempt": 1}')
    assert stream.preview(frame) == [Frame("picture")]
    assert stream.preview(PreviewFrame("j_1", 2, "another attempt's")) == []
    stream.event(3, '{"type": "child_completed", "job_id": "j_1"}')
    assert stream.preview(frame) == []
    assert stream.preview(PreviewFrame("j_unknown", 1, "x")) == []


async def test_previews_are_sent_to_clients_that_request_them(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id, "?previews=1") as asking, watching(group_id) as other:
        await asking.until("initial_state")
        await other.until("initial_state")
        claim = await writer.do(writer.runner.begin, "gpu_1")
        for client in (asking, other):
            await client.until("child_started")
        assert process_hub.wants_previews(group_id)
        text = to_json({"type": "child_preview", "job_id": claim.child_id, "image": "eA=="})
        frame = PreviewFrame(claim.child_id, 1, text)
        process_hub.publish(Message(group_id=group_id, previews=(frame,)))
        assert (await asking.until("child_preview"))["image"] == "eA=="
        await other.pong()
    assert "child_preview" not in other.kinds()
    assert not process_hub.wants_previews(group_id)
