"""The queue of prompts and the history of those that ran, as ComfyUI keeps them: in memory."""

import asyncio
import heapq
import uuid
from collections.abc import Callable
from typing import Any

from backends.simulator.audit_log import AuditLog

Item = tuple[Any, str, Any, Any, list[str]]  # number, prompt_id, prompt, extra_data, outputs
HistoryEntry = dict[str, Any]

MAX_HISTORY = 10_000
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


def identity(prompt_id: str, extra_data: Any) -> dict[str, Any]:
    """Return a prompt's id and its client's, as audit log entries have them."""
    client_id = extra_data.get("client_id") if isinstance(extra_data, dict) else None
    return {"prompt_id": prompt_id, "client_id": client_id}


def is_canonical(value: Any) -> bool:
    """Return whether a value is a UUID in the only form that newer ComfyUIs take as the id of a
    prompt.
    """
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def without_keys(item: Item) -> Item:
    """Return an item as ComfyUI shows it: without the keys of partner nodes."""
    number, prompt_id, prompt, extra_data, outputs = item
    if isinstance(extra_data, dict):
        extra_data = {k: v for k, v in extra_data.items() if k not in _SECRETS}
    return number, prompt_id, prompt, extra_data, outputs


class PromptQueue:
    """A heap of waiting prompts, the running one, and what became of the others.

    The heap compares whole items, so two with equal number and prompt_id make it compare dicts:
    `put` and `get` raise TypeError then, as ComfyUI's do (comfyui-protocol.md, trap 1a).
    """

    def __init__(self, audit_log: AuditLog, on_change: Callable[[], None]) -> None:
        self.pending: list[Item] = []
        self.running: dict[int, Item] = {}
        self.history: dict[str, HistoryEntry] = {}
        self.wake = asyncio.Event()
        self._audit_log = audit_log
        self._on_change = on_change  # sends the new depth to all sockets
        self._tasks = 0

    def put(self, item: Item) -> None:
        """Queue an item. Raises TypeError although it's queued; see the class."""
        heapq.heappush(self.pending, item)
        self._on_change()
        self.wake.set()

    def get(self) -> tuple[int, Item]:
        """Take the item with the lowest number and call it running. Raises TypeError; IndexError."""
        item = heapq.heappop(self.pending)
        task, self._tasks = self._tasks, self._tasks + 1
        self.running[task] = item
        self._on_change()
        return task, item

    def finish(self, task: int, entry: HistoryEntry | None) -> None:
        self.running.pop(task)
        if entry is not None:
            self.remember(entry)
        self._on_change()

    def remember(self, entry: HistoryEntry) -> None:
        if len(self.history) > MAX_HISTORY:
            self.history.pop(next(iter(self.history)))
        kept = without_keys(entry["prompt"])
        self.history[kept[1]] = entry | {"prompt": kept}

    def is_running(self, prompt_id: Any) -> bool:
        return any(item[1] == prompt_id for item in self.running.values())

    def clear(self) -> None:
        """Remove all pending prompts; their clients receive no event."""
        for item in self.pending:
            self._tell_deleted(item)
        self.pending = []
        self._on_change()

    def delete(self, prompt_id: Any) -> bool:
        """Drop the first pending one of that id, if any; the last one left is dropped by clearing."""
        for index, item in enumerate(self.pending):
            if item[1] != prompt_id:
                continue
            if len(self.pending) == 1:
                self.clear()
            else:
                self._tell_deleted(self.pending.pop(index))
                heapq.heapify(self.pending)
            self._on_change()
            return True
        return False

    def _tell_deleted(self, item: Item) -> None:
        self._audit_log.write("deleted", **identity(item[1], item[3]))

    def recent(self, max_items: int | None, offset: int) -> dict[str, HistoryEntry]:
        """History entries, oldest first: the last `max_items`, or that many from `offset`."""
        if offset < 0 and max_items is not None:
            offset = len(self.history) - max_items
        entries = list(self.history.items())[max(0, offset) :]
        return dict(entries if max_items is None else entries[: max(max_items, 1)])
