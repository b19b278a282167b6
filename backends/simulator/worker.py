"""The worker: one prompt after another, until it dies of one (comfyui-protocol.md, trap 1)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from backends.simulator.execution import Execution
from backends.simulator.garbage import GarbageCollection
from backends.simulator.lenient import LenientExecution
from backends.simulator.prompt_queue import HistoryEntry, LenientItem
from backends.simulator.server_state import ServerState

logger = logging.getLogger(__name__)


async def work(state: ServerState) -> None:
    """Run prompts for ever. What kills ComfyUI's worker thread ends this, and HTTP goes on."""
    garbage = GarbageCollection(state)
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(garbage.delay_until_due()):
                    await state.queue.wake.wait()
            state.queue.wake.clear()
            await _tidy(state, garbage)
            while state.queue.pending:
                await _run_next(state)
                garbage.left()
                await _tidy(state, garbage)
    except Exception:
        logger.warning("%s: the worker died", state.config.name, exc_info=True)
    state.worker_alive = False


async def _run_next(state: ServerState) -> None:
    """One prompt from the queue to its last frame."""
    task, item = state.queue.get()
    await asyncio.sleep(0)  # an interrupt that comes in here is lost (comfyui-protocol.md, trap 4)
    facts = {"prompt_id": item[1], "extra_data": item[3]}
    if isinstance(item[3], dict):
        facts["client_id"] = item[3].get("client_id")
    if fault := state.faults.take("slow_start", **facts):
        await asyncio.sleep(fault["seconds"])
    kind = LenientExecution if isinstance(item, LenientItem) else Execution
    execution = kind(state, item)
    entry = await execution.go()
    await state.apply_due_faults("finishing", **execution.run.facts)
    if fault := state.faults.take("late_history", **execution.run.facts):
        await asyncio.sleep(fault["seconds"])
    else:
        await asyncio.sleep(0)  # execution_success leaves before the history (comfyui-protocol.md, trap 3)
    state.queue.finish(task, _entry_now(state, execution, entry))
    if state.client_id is not None:
        data = {"node": None, "prompt_id": execution.prompt_id}
        state.hub.send("executing", data, state.client_id)
    await state.apply_due_faults("ended", **execution.run.facts)


def _entry_now(state: ServerState, execution: Execution, entry: HistoryEntry) -> HistoryEntry | None:
    """The history entry to write now: none if it's ordered late or never."""
    if state.faults.take("no_history", **execution.run.facts):
        return None
    if fault := state.faults.take("late_history_entry", **execution.run.facts):
        state.spawn(_remember_later(state, entry, fault["seconds"]))
        return None
    return entry


async def _remember_later(state: ServerState, entry: HistoryEntry, seconds: float) -> None:
    await asyncio.sleep(seconds)
    state.queue.remember(entry)


async def _tidy(state: ServerState, garbage: GarbageCollection) -> None:
    """Empty the node cache if POST /free requested it; collect garbage if it is due."""
    if state.free_requested:
        state.free_requested = False
        state.cache.forget()
        state.node_succeeded = True
        garbage.freed()
    await garbage.collect()
