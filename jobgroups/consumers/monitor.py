"""``/ws/monitor``: notifies the pages of changes; they load the changed parts.

``?groups=jg_a,jg_b`` names the groups that the page shows. The first frame is a snapshot: the
``seq`` of each group, and the monitor state. Later frames name each event of these groups, their
progress four times a second, and the monitor state when it changes. A page that reconnects gets a
new snapshot and loads what it missed. ``?stars=jg_a`` names groups of which only stars, replaced
files and changes are sent; a group's page also reads its group's stream. ``?previews=jg_a`` names
those of ``groups`` of which the newest live preview is sent, one every two seconds.

The monitor state is what every page shows: runner, newest group, backends, number of failed jobs. A
process reads it once a second for all pages.
"""

import asyncio
import hashlib
import re
import time
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from django.conf import settings

from backends.discovery import found_list
from backends.queries import backend_list
from jobgroups.consumers.socket import TOO_SLOW, Socket
from jobgroups.domain.access import Principal
from jobgroups.events.hub import Subscription, hub
from jobgroups.events.messages import (
    ChangedFrame,
    Entry,
    EventFrame,
    PreviewFrame,
    ProgressFrame,
    ReplacedFrame,
    SeqHint,
    StarFrame,
    UnsharedFrame,
)
from jobgroups.queries import backends, failures, groups, leases
from jobgroups.queries.exclusions import active_exclusions
from jobgroups.queries.visibility import seen_groups
from jobgroups.services import stored_files
from jobgroups.streams.reads import read, read_seqs

POLL_SECONDS: Final = 1.0  #: Seconds between two reads of a page.
_SHARED_SECONDS: Final = 0.8  #: The maximum age of a shared result.
_KEPT_SECONDS: Final = 10.0  #: After which the state of an account without pages is dropped.


class MonitorState(msgspec.Struct, frozen=True):
    runner: bool  #: Whether a runner is alive.
    halt: str  #: Why no job is sent or nothing is stored, as a sentence; empty: neither.
    newest: str  #: The id of the newest group, or empty.
    backends: str  #: A digest that changes with every visible property of a backend.
    #: Jobs that failed in the last day and are failed now, at most ``failures.MAX_COUNT``.
    failed: int
    #: Whether outputs are not copied and uploads are refused, since too little of the disk is free.
    disk_full: bool


def _read(principal: Principal) -> MonitorState:
    filters = groups.GroupFilter(principal=principal)
    newest = groups.group_list(filters=filters, cursor=None, limit=1).results
    return MonitorState(
        runner=leases.runner_alive(),
        halt=leases.READ_ONLY if leases.is_read_only() else leases.halt_reason(),
        newest=newest[0]["job_group_id"] if newest else "",
        backends=_backends(),
        failed=failures.lost_count(principal),
        disk_full=stored_files.free_bytes() < settings.DIRECTOR_MIN_FREE_BYTES,
    )


def _backends() -> str:
    seen = [
        (
            row.id,
            (row.name, row.url, row.tags, row.partner_nodes_allowed, row.extensions_allowed),
            row.enabled,
            row.reachability,
            row.status_reason,
            (row.hold, row.evict, row.changed_by, row.changed_reason, row.changed_at),
            (row.quarantined_at, row.quarantine_until, row.quarantine_reason),
            row.consecutive_quarantines,
            row.queue_running,
            row.queue_pending,
            row.queue_foreign,
            row.comfyui_version,
        )
        for row in backend_list()
    ]
    loads = [(key, str(load)) for key, load in sorted(backends.backend_loads().items())]
    unregistered = [(row.url, row.ignored_at) for row in found_list()]
    excluded = [(row.id, row.count) for row in active_exclusions()]
    parts = repr((seen, loads, unregistered, excluded))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


class MonitorPoller:
    """The process's newest states: one for all who see all, and one for each account that sees its
    own work alone. Used from one event loop.
    """

    def __init__(self) -> None:
        self._newest: dict[int | None, tuple[float, MonitorState]] = {}

    async def current(self, principal: Principal) -> MonitorState:
        """Return the state for a principal, less than a second old."""
        key = None if principal.sees_all else principal.user_id
        moment = time.monotonic()
        newest = self._newest.get(key)
        if newest is None or moment - newest[0] > _SHARED_SECONDS:
            newest = (moment, await read(_read, principal))
            # Without those that no page reads any more.
            kept = {
                user: state
                for user, state in self._newest.items()
                if moment - state[0] < _KEPT_SECONDS
            }
            self._newest = kept | {key: newest}
        return newest[1]


monitor_poller = MonitorPoller()


MAX_GROUPS: Final = 100  #: Maximum number of groups of one page.
#: Seconds between two progress frames. Newer progress replaces unsent progress.
PROGRESS_SECONDS: Final = 0.25
MAX_PREVIEWS: Final = 10  #: Maximum number of groups of one page whose previews are sent.
PREVIEW_SECONDS: Final = 2.0  #: Seconds between two previews of a group.
#: What is sent of the groups in ``?stars=``.
_MARKS: Final = (StarFrame, ReplacedFrame, ChangedFrame)
_GROUP_ID: Final = re.compile(r"jg_[0-9a-f]{12}")


def groups_of(query_string: bytes, name: str = "groups") -> list[str]:
    """Return the ids in ``?groups=``, each once, without invalid ones."""
    given = parse_qs(query_string.decode("latin-1")).get(name, [""])[0].split(",")
    known = [group_id for group_id in dict.fromkeys(given) if _GROUP_ID.fullmatch(group_id)]
    return known[:MAX_GROUPS]


class _Head(msgspec.Struct):
    type: str


class MonitorConsumer(Socket):
    kind = "monitor"

    async def write(self) -> None:
        self._progress: dict[str, list[object]] = {}
        self._progressed = asyncio.Event()
        self._previews: dict[str, str] = {}
        self._previewed = asyncio.Event()
        subscriptions: list[Subscription] = []
        query = self.scope.get("query_string", b"")
        group_ids = await self._seen(groups_of(query))
        starred = await self._seen(groups_of(query, "stars"))
        previewed = groups_of(query, "previews")[:MAX_PREVIEWS]
        try:
            # One by one, so that a cancellation removes those that exist.
            for group_id in group_ids:
                wants = group_id in previewed
                subscriptions.append(await self._subscribe(group_id, previews=wants))
            for group_id in starred:
                subscriptions.append(await self._subscribe(group_id, only=_MARKS))  # noqa: PERF401
            state = await self._snapshot(group_ids)
            self.mark_ready()
            async with asyncio.TaskGroup() as tasks:
                for subscription in subscriptions:
                    tasks.create_task(
                        self._follow(subscription), name=f"monitor {subscription.group_id}"
                    )
                tasks.create_task(self._flush(), name="monitor progress")
                tasks.create_task(self._flush_previews(), name="monitor previews")
                tasks.create_task(self._poll_state(state), name="monitor state")
        finally:
            for subscription in subscriptions:
                await hub.unsubscribe(subscription)

    async def _subscribe(
        self, group_id: str, *, only: tuple[type[Entry], ...] = (), previews: bool = False
    ) -> Subscription:
        sees_all = self.principal.sees_all
        return await hub.subscribe(
            group_id, self._lag, previews=previews, only=only, sees_all=sees_all
        )

    async def _seen(self, group_ids: list[str]) -> list[str]:
        """Return those of the groups that the page may follow, in their order."""
        if self.principal.sees_all or not group_ids:
            return group_ids
        seen = await read(seen_groups, self.principal, group_ids)
        return [group_id for group_id in group_ids if group_id in seen]

    def _lag(self) -> None:
        self.request_close(TOO_SLOW)

    async def _send_json(self, kind: str, **fields: Any) -> None:
        await self.send_text(msgspec.json.encode({"type": kind, **fields}).decode())

    async def _snapshot(self, group_ids: list[str]) -> MonitorState:
        state = await monitor_poller.current(self.principal)
        stored = await read_seqs(group_ids) if group_ids else {}
        seqs = {group_id: seq for group_id, (seq, _) in stored.items()}
        version = settings.DIRECTOR_VERSION
        await self._send_json("snapshot", version=version, seqs=seqs, **msgspec.to_builtins(state))
        return state

    async def _follow(self, subscription: Subscription) -> None:
        while True:
            for entry in await subscription.take():
                is_changed = isinstance(entry, ChangedFrame)
                if is_changed and not await self._seen([subscription.group_id]):
                    return  # it is not shared any more
                await self._forward(subscription.group_id, entry)

    async def _forward(self, group_id: str, entry: Entry) -> None:
        match entry:
            case ProgressFrame():
                percent = round(entry.percent, 1)
                self._progress[entry.child_id] = [group_id, entry.child_id, percent]
                self._progressed.set()
            case PreviewFrame():
                self._previews[group_id] = entry.text
                self._previewed.set()
            case EventFrame():
                if entry.is_final:
                    self._progress.pop(entry.child_id or "", None)
                kind = msgspec.json.decode(entry.text, type=_Head).type
                await self._send_json(
                    "event", group=group_id, seq=entry.seq, event=kind, job=entry.child_id
                )
            case StarFrame():
                await self._send_json(
                    "star", group=group_id, job=entry.child_id, starred=entry.starred
                )
            case ReplacedFrame():
                await self._send_json("replaced", group=group_id, job=entry.child_id)
            case UnsharedFrame():
                pass
            case ChangedFrame():
                await self._send_json("changed", group=group_id)
            case SeqHint():
                await self._send_json(
                    "event", group=group_id, seq=entry.seq, event="poke", job=None
                )

    async def _flush(self) -> None:
        while True:
            await self._progressed.wait()
            self._progressed.clear()
            waiting, self._progress = self._progress, {}
            if waiting:
                await self._send_json("progress", children=list(waiting.values()))
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _flush_previews(self) -> None:
        while True:
            await self._previewed.wait()
            self._previewed.clear()
            waiting, self._previews = self._previews, {}
            for group_id, text in waiting.items():
                await self._send_json("preview", group=group_id, preview=msgspec.Raw(text.encode()))
            await asyncio.sleep(PREVIEW_SECONDS)

    async def _poll_state(self, last: MonitorState) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            state = await monitor_poller.current(self.principal)
            if state != last:
                last = state
                await self._send_json("pulse", **msgspec.to_builtins(state))
