"""``child_preview``: for sockets that ask, from ComfyUI's frames 1 and 4, and only of what runs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from backends.comfyui.event_socket import EventSocket
from backends.comfyui.events import Executing, ExecutionStart, Preview
from jobgroups.consumers.job_group import previews_of
from jobgroups.consumers.stream import ChildHead, Stream
from jobgroups.events.hub import Hub
from jobgroups.events.hub import hub as process_hub
from jobgroups.events.messages import EventFrame, Message, PreviewFrame, ProgressFrame, deserialize, serialize
from jobgroups.runner.attempt.driver import AttemptSpec
from jobgroups.runner.session import previews as previews_module
from jobgroups.runner.session.previews import MIN_INTERVAL, SessionPreviews
from jobgroups.serializers import to_json
from tests.harness.farm import Farm, text_to_image
from tests.runner.conftest import farm  # noqa: F401 a fixture
from tests.ws.clients import watching
from tests.ws.conftest import Writer


async def _no_seqs(_: list[str]) -> dict[str, int]:
    return {}


@pytest.fixture
async def hub() -> Any:
    made = Hub()
    made.bind(asyncio.get_running_loop(), read_seqs=_no_seqs)
    yield made
    await made.aclose()


def course(child: str = "j_1", group: str = "g") -> AttemptSpec:
    return AttemptSpec(
        attempt_id=1,
        number=1,
        prompt_id=f"p-{child}",
        client_id="c",
        group_id=group,
        child_id=child,
        timeout_s=30,
        workflow={},
    )


class Showing:
    """A session's previews with two children, and what a watcher of their group is sent."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.specs = {"p-j_1": course("j_1"), "p-j_2": course("j_2")}
        self.previews = SessionPreviews(hub, "gpu-1", self.specs.items)

    def publish(self, image: bytes = b"x", prompt_id: str | None = None) -> None:
        self.previews.publish(Preview(image_type="jpeg", image=image, prompt_id=prompt_id))


async def _taken(subscription: Any, within: float = 2.0) -> list[dict[str, Any]]:
    async with asyncio.timeout(within):
        return [json.loads(entry.text) for entry in await subscription.take()]


async def _delivered() -> None:
    """Let the loop hand over what was published before."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


# --- who is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "asks"), [(b"previews=1", True), (b"since=3&previews=1", True), (b"", False), (b"previews=0", False)]
)
def test_a_socket_asks_with_previews_1(query: bytes, asks: bool) -> None:
    assert previews_of(query) is asks


async def test_only_sockets_that_ask_get_previews(hub: Hub) -> None:
    asking, other = await hub.subscribe("g", previews=True), await hub.subscribe("g")
    hub.publish(Message("g", previews=(PreviewFrame("j_1", 1, "{}"),)))
    hub.publish(Message("g", progress=(ProgressFrame("j_1", 1, 5.0, "{}"),)))
    await _delivered()
    kinds = [[type(entry) for entry in await one.take()] for one in (asking, other)]
    assert kinds == [[PreviewFrame, ProgressFrame], [ProgressFrame]]


async def test_the_hub_knows_whether_anybody_looks(hub: Hub) -> None:
    assert not hub.wants_previews("g")
    await hub.subscribe("g")
    assert not hub.wants_previews("g")
    asking = await hub.subscribe("g", previews=True)
    assert hub.wants_previews("g")
    assert not hub.wants_previews("h")
    await hub.unsubscribe(asking)
    assert not hub.wants_previews("g")


async def test_a_frame_is_not_read_when_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = struct.pack(">II", 1, 1) + b"jpeg"

    def read(_: object) -> None:
        raise AssertionError("read")

    class Connection:
        frames = [frame, '{"type": "status", "data": {}}', frame]

        async def recv(self) -> Any:
            if self.frames:
                return self.frames.pop(0)
            return '{"type": "unknown"}'

    socket = EventSocket(Connection(), url="", client_id="c", previews=True)  # type: ignore[arg-type]
    looks = False
    socket.wants_previews = lambda: looks
    monkeypatch.setattr("backends.comfyui.protocol._parse_binary", read)
    assert socket._event(frame) is None
    looks = True
    with pytest.raises(AssertionError, match="read"):
        socket._event(frame)


# --- what is sent ---------------------------------------------------------------------------------


async def test_a_preview_says_whose_it_is(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    showing.publish(b"picture", "p-j_2")
    (frame,) = await _taken(watching)
    assert frame == {
        "type": "child_preview",
        "job_id": "j_2",
        "backend_id": "gpu-1",
        "attempt": 1,
        "mime": "image/jpeg",
        "image": base64.b64encode(b"picture").decode(),
    }


async def test_one_without_a_name_is_of_the_prompt_that_executes(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    showing.publish()  # nobody's: nothing of ours executes
    showing.previews.track(ExecutionStart(prompt_id="p-j_2"))
    showing.publish()
    (frame,) = await _taken(watching)
    assert frame["job_id"] == "j_2"
    showing.previews.track(Executing(node=None, prompt_id="p-j_2"))
    showing.publish(b"foreign")
    showing.previews.track(Executing(node="3", prompt_id="p-j_1"))
    showing.publish()
    (frame,) = await _taken(watching)
    assert frame["job_id"] == "j_1"


async def test_a_strangers_preview_is_shown_to_nobody(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    showing.previews.track(ExecutionStart(prompt_id="p-j_1"))
    showing.publish(b"foreign", "somebody else's")
    showing.publish(b"ours", "p-j_1")
    (frame,) = await _taken(watching)
    assert base64.b64decode(frame["image"]) == b"ours"


async def test_the_latest_wins_four_times_a_second(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    begun = time.monotonic()
    for number in range(100):
        showing.publish(str(number).encode(), "p-j_1")
    images = []
    while len(images) < 2:
        images += [base64.b64decode(frame["image"]) for frame in await _taken(watching)]
    assert images == [b"0", b"99"]
    assert time.monotonic() - begun >= MIN_INTERVAL * 0.9


async def test_one_that_exceeds_a_frame_is_left_out(hub: Hub) -> None:
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    showing.publish(bytes(800_000), "p-j_1")
    showing.publish(bytes(700_000), "p-j_2")
    frames = await _taken(watching)
    assert [frame["job_id"] for frame in frames] == ["j_2"]


async def test_what_is_pending_when_the_watcher_leaves_is_not_made(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews_module, "MIN_INTERVAL", 0.05)
    showing, watching = Showing(hub), await hub.subscribe("g", previews=True)
    showing.publish(b"1", "p-j_1")
    showing.publish(b"2", "p-j_1")
    await hub.unsubscribe(watching)
    made: list[object] = []
    monkeypatch.setattr(hub, "publish", made.append)
    await asyncio.sleep(0.1)
    assert made == []


def test_only_what_runs_is_shown() -> None:
    stream = Stream(1, [ChildHead("j_1", "queued", 0.0, 0)])
    frame = PreviewFrame("j_1", 1, "picture")
    assert stream.preview(frame) is None
    stream.event(2, '{"type": "child_started", "job_id": "j_1", "attempt": 1}')
    assert stream.preview(frame) == "picture"
    assert stream.preview(PreviewFrame("j_1", 2, "another attempt's")) is None
    stream.event(3, '{"type": "child_completed", "job_id": "j_1"}')
    assert stream.preview(frame) is None
    assert stream.preview(PreviewFrame("j_unknown", 1, "x")) is None


async def test_none_is_queued_behind_the_end_of_its_child(hub: Hub) -> None:
    watching = await hub.subscribe("g", previews=True)
    hub.publish(Message("g", events=(EventFrame(1, "end", "j_1", is_final=True),)))
    hub.publish(Message("g", previews=(PreviewFrame("j_1", 1, "late"),)))
    await _delivered()
    assert [entry.text for entry in await watching.take()] == ["end"]  # type: ignore[union-attr]


async def test_a_client_that_asks_sees_what_runs_and_another_does_not(writer: Writer) -> None:
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
        await writer.do(writer.runner.succeeded, claim)
        for client in (asking, other):
            await client.until("child_completed")
        process_hub.publish(Message(group_id=group_id, previews=(frame,)))
        for client in (asking, other):
            await client.pong()
    assert asking.kinds(of=claim.child_id).count("child_preview") == 1
    assert "child_preview" not in other.kinds()
    assert not process_hub.wants_previews(group_id)


# --- between processes ----------------------------------------------------------------------------


def test_a_preview_survives_the_way_through_the_layer() -> None:
    message = Message("g", previews=(PreviewFrame("j_1", 2, "text"),))
    assert deserialize(serialize(message)) == message
    older = {key: value for key, value in serialize(message).items() if key != "previews"}
    assert deserialize(older) == Message("g")


class Line:
    """Stands for the relay: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, group: str, form: dict[str, Any]) -> None:
        self.sent.append((group, form))

    def send_lazy(self, group: str, make: Callable[[], dict[str, Any]]) -> None:
        self.sent.append((group, make()))

    async def join(self, group: str) -> None: ...

    async def leave(self, group: str) -> None: ...

    async def aclose(self) -> None: ...


async def test_previews_go_to_another_process_only_while_it_asks(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, web = Line(), Line()
    hub._relay = runner  # type: ignore[assignment]
    preview = Message("g", previews=(PreviewFrame("j_1", 1, "x"),))
    hub._deliver(preview)
    assert runner.sent == []

    asking = Hub()
    asking.bind(asyncio.get_running_loop(), read_seqs=_no_seqs)
    asking._relay = web  # type: ignore[assignment]
    await asking.subscribe("g", previews=True)
    ((group, wish),) = web.sent
    assert group == "director.runners"
    hub._on_message(wish)
    assert hub.wants_previews("g")
    hub._deliver(preview)
    assert [group for group, _ in runner.sent] == ["group.g"]

    later = asyncio.get_running_loop().time() + 7
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    assert not hub.wants_previews("g")
    await asking.aclose()


# --- all of it ------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_a_real_sampler_is_seen_sampling(farm: Farm) -> None:  # noqa: F811
    farm.hub.bind(asyncio.get_running_loop(), read_seqs=_no_seqs)
    await farm.backend("gpu-1", seconds=1.5, preview_fps=20.0)
    await farm.runner()
    seen: list[dict[str, Any]] = []
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=30))
    watching = await farm.hub.subscribe(group.id, previews=True)

    async def look(wanted: Callable[[], bool]) -> None:
        while not wanted():
            entries = await watching.take()
            seen.extend(json.loads(e.text) for e in entries if isinstance(e, PreviewFrame))

    async with asyncio.timeout(20):
        await look(lambda: len(seen) >= 3)
    child = (await farm.children(group))[0]
    assert {frame["job_id"] for frame in seen} == {child.id}
    with Image.open(io.BytesIO(base64.b64decode(seen[-1]["image"])), formats=["JPEG"]) as image:
        assert max(image.size) == 512
    await farm.finished(group)
    await farm.hub.aclose()
    assert "child_preview" not in await farm.types(group)
