"""A snapshot and the events after it result in the next snapshot, over any loss and any reconnect."""

import contextlib
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.domain.states import RetryScope, Where
from jobgroups.errors import Conflict
from jobgroups.events import hub as hub_module
from jobgroups.events.hub import hub
from jobgroups.events.messages import Message
from jobgroups.models import ChildJob
from jobgroups.queries import groups
from jobgroups.services import cancellation, moves, retries
from jobgroups.services.assignment import Choice
from tests.ws.client_state import COUNTS, ClientState, picked
from tests.ws.clients import Watcher, watching
from tests.ws.conftest import Writer
from tests.ws.played_runner import progress

pytestmark = pytest.mark.django_db(transaction=True)


class Client:
    """A client that may reconnect, with ``since`` or without."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.state = ClientState()
        self.percents: dict[tuple[str, int], float] = {}
        self._stack = AsyncExitStack()
        self._watcher: Watcher | None = None

    async def connect(self, *, resume: bool) -> None:
        await self._stack.aclose()
        query = f"?since={self.state.seq}" if resume and self.state.group else ""
        self._watcher = await self._stack.enter_async_context(watching(self.group_id, query))
        self.percents.clear()

    async def disconnect(self) -> None:
        await self._stack.aclose()

    async def read_until(self, seq: int) -> None:
        assert self._watcher is not None
        while not self.state.group or self.state.seq < seq:
            self._take(await self._watcher.next())

    def _take(self, frame: dict[str, Any]) -> None:
        self.state.take(frame)
        if frame["type"] == "child_progress":
            child = self.state.children[frame["job_id"]]
            assert child["status"] == "running", "progress before the start or after the end"
            assert child["attempts"] == frame["attempt"]
            key = frame["job_id"], frame["attempt"]
            assert frame["progress"] >= self.percents.get(key, 0.0), "progress went back"
            self.percents[key] = frame["progress"]


def lossy(dice: random.Random, publish: Any) -> Any:
    """Return a ``publish`` that loses every fourth message."""

    def publish_or_lose(message: Message) -> None:
        if dice.random() < 0.75:
            publish(message)

    return publish_or_lose


def random_progress(dice: random.Random, writer: Writer, group_id: str) -> None:
    claims = list(writer.runner.claims.values())
    if claims:
        claim = dice.choice(claims)
        progress(group_id, claim.child_id, claim.number, float(dice.randrange(100)))


async def requested(dice: random.Random, writer: Writer, group_id: str, word: str) -> None:
    """Send a user's request about a group, ended or not."""
    if word == "retry":
        with contextlib.suppress(Conflict):
            await writer.do(retries.group_retry, group_id=group_id)
    elif word == "retry job":
        job = dice.choice(await writer.do(_job_ids, group_id))
        choice = Choice(where=dice.choice([None, *Where]))
        with contextlib.suppress(Conflict):
            await writer.do(retries.child_retry, group_id=group_id, job_id=job, choice=choice, by="anna")
    elif word == "move":
        job = dice.choice(await writer.do(_job_ids, group_id))
        target = dice.choice(writer.runner.names)
        with contextlib.suppress(Conflict):
            await writer.do(moves.child_move, group_id=group_id, job_id=job, backend_id=target)
    elif dice.random() < 0.1:
        await writer.do(cancellation.group_cancel, group_id=group_id)


def _job_ids(group_id: str) -> list[str]:
    return list(ChildJob.objects.filter(group_id=group_id).values_list("pk", flat=True))


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("seed", range(12))
async def test_snapshot_and_events_are_the_next_snapshot(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, settings: Settings, seed: int, lossless: bool
) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.01)
    dice = random.Random(seed)
    if not lossless:
        monkeypatch.setattr(hub, "publish", lossy(dice, hub.publish))
    backends = tuple(dice.choices(writer.runner.names, k=dice.randint(1, 5)))
    policy = {"max_attempts": dice.randint(1, 4), "retry_elsewhere": dice.choice([*RetryScope])}
    group_id = await writer.do(writer.runner.submit, backends, **policy)
    clients = [Client(group_id) for _ in range(3)]
    for client in clients:
        await client.connect(resume=False)
    for _ in range(60):
        words = [*["step"] * 3, "progress", "read", "reconnect", "cancel", "retry"]
        match dice.choice([*words, "retry job", "move"]):
            case "step":
                await writer.do(writer.runner.random_step, dice)
            case "progress":
                random_progress(dice, writer, group_id)
            case "read":
                seqs = await writer.do(groups.group_seqs, [group_id])
                await dice.choice(clients).read_until(dice.randint(1, seqs[group_id]))
            case "reconnect":
                await dice.choice(clients).connect(resume=dice.random() < 0.7)
            case word:
                await requested(dice, writer, group_id, word)
    snapshot = await writer.do(groups.group_snapshot, group_id)
    for client in clients:
        await client.read_until(snapshot["seq"])
        await client.disconnect()
        _assert_same(client.state, snapshot)


def _assert_same(state: ClientState, snapshot: dict[str, Any]) -> None:
    assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
    assert state.counts() == {name: snapshot[name] for name in COUNTS}
    for name in ("seq", "run", "completed_at", "metadata"):
        assert state.group[name] == snapshot[name], name
    if snapshot["completed_at"] is not None:
        assert state.group["status"] == snapshot["status"]
