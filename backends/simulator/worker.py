"""The worker: one prompt after another, until it dies of one (comfyui-protocol.md, trap 1)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from backends.simulator.execution import Execution
from backends.simulator.garbage import GarbageCollection
from backends.simulator.lenient import LenientExecution
from backends.simulator.life import ServerState
from backends.simulator.prompt_queue import HistoryEntry, LenientItem

logger = logging.getLogger(__name__)


async def work(life: ServerState) -> None:
    """Run prompts for ever. What kills ComfyUI's worker thread ends this, and HTTP goes on."""
    garbage = GarbageCollection(life)
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(garbage.delay_until_due()):
                    await life.queue.wake.wait()
            life.queue.wake.clear()
            await _tidy(life, garbage)
            while life.queue.pending:
                await _run_next(life)
                garbage.left()
                await _tidy(life, garbage)
    except Exception:
        logger.warning("%s: the worker died", life.config.name, exc_info=True)
    life.worker_alive = False


async def _run_next(life: ServerState) -> None:
    """One prompt from the queue to its last frame."""
    task, item = life.queue.get()
    await asyncio.sleep(0)  # an interrupt that comes in here is lost (comfyui-protocol.md, trap 4)
    facts = {"prompt_id": item[1], "extra_data": item[3]}
    if isinstance(item[3], dict):
        facts["client_id"] = item[3].get("client_id")
    if fault := life.faults.take("slow_start", **facts):
        await asyncio.sleep(fault["seconds"])
    kind = LenientExecution if isinstance(item, LenientItem) else Execution
    execution = kind(life, item)
    entry = await execution.go()
    await life.apply_due_faults("finishing", **execution.run.facts)
    if fault := life.faults.take("late_history", **execution.run.facts):
        await asyncio.sleep(fault["seconds"])
    else:
        await asyncio.sleep(
            0
        )  # execution_success leaves before the history (comfyui-protocol.md, trap 3)
    life.queue.finish(task, _entry_now(life, execution, entry))
    if life.client_id is not None:
        told = {"node": None, "prompt_id": execution.prompt_id}
        life.hub.send("executing", told, life.client_id)
    await life.apply_due_faults("ended", **execution.run.facts)


def _entry_now(life: ServerState, execution: Execution, entry: HistoryEntry) -> HistoryEntry | None:
    """The history entry to write now: none if it's ordered late or never."""
    if life.faults.take("no_history", **execution.run.facts):
        return None
    if fault := life.faults.take("late_history_entry", **execution.run.facts):
        life.spawn(_remember_later(life, entry, fault["seconds"]))
        return None
    return entry


async def _remember_later(life: ServerState, entry: HistoryEntry, seconds: float) -> None:
    await asyncio.sleep(seconds)
    life.queue.remember(entry)


async def _tidy(life: ServerState, garbage: GarbageCollection) -> None:
    """Empty the node cache if POST /free asked for it; collect garbage if it's time."""
    if life.free_requested:
        life.free_requested = False
        life.cache.forget()
        life.node_succeeded = True
        garbage.freed()
    await garbage.collect()
