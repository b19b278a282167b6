"""The worker: one prompt after another, until it dies of one (comfyui-protocol.md, trap 1)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from backends.simulator.execution import Execution
from backends.simulator.lenient import LenientExecution
from backends.simulator.prompt_queue import HistoryEntry, LenientItem, identity
from backends.simulator.server_state import ServerState

logger = logging.getLogger(__name__)

GC_INTERVAL = 10.0  # seconds from one garbage collection to the next


async def work(state: ServerState) -> None:
    """Run prompts for ever. What kills ComfyUI's worker thread ends this, and HTTP goes on."""
    garbage = _GarbageCollection(state)
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
    task, item = state.queue.get()
    await asyncio.sleep(0)  # an interrupt that comes in here is lost (comfyui-protocol.md, trap 4)
    facts = identity(item[1], item[3]) | {"extra_data": item[3]}
    if fault := state.faults.take("slow_start", **facts):
        await asyncio.sleep(fault["seconds"])
    kind = LenientExecution if isinstance(item, LenientItem) else Execution
    execution = kind(state, item)
    entry = await execution.go()
    facts = execution.run.facts
    await state.apply_due_faults("finishing", **facts)
    fault = state.faults.take("late_history", **facts)
    # At 0, too, execution_success leaves before the history (comfyui-protocol.md, trap 3).
    await asyncio.sleep(fault["seconds"] if fault else 0)
    entry_now: HistoryEntry | None = entry
    if state.faults.take("no_history", **facts):
        entry_now = None
    elif fault := state.faults.take("late_history_entry", **facts):
        state.later(fault["seconds"], partial(state.queue.remember, entry))
        entry_now = None
    state.queue.finish(task, entry_now)
    if state.client_id is not None:
        data = {"node": None, "prompt_id": execution.prompt_id}
        state.hub.send("executing", data, state.client_id)
    await state.apply_due_faults("ended", **facts)


async def _tidy(state: ServerState, garbage: _GarbageCollection) -> None:
    if state.free_requested:
        state.free_requested = False
        state.cache.forget()
        state.node_succeeded = True
        garbage.freed()
    await garbage.collect()


class _GarbageCollection:
    """`--gc-pause`: the pause in which ComfyUI collects garbage (comfyui-protocol.md, trap 11).

    It follows the end of a prompt, at most every 10 s (a postponed collection runs when they are
    over). HTTP pauses with the worker.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._wanted = False
        self._last = float("-inf")  # loop time

    def left(self) -> None:
        self._wanted = self._state.config.gc_pause > 0

    def freed(self) -> None:
        self.left()
        self._last = float("-inf")

    def delay_until_due(self) -> float | None:
        """Seconds that the worker may wait for a prompt until a collection is due; None: any."""
        if not self._wanted:
            return None
        return max(0.0, self._last + GC_INTERVAL - asyncio.get_running_loop().time())

    async def collect(self) -> None:
        if self.delay_until_due() != 0.0:
            return
        self._wanted = False
        self._state.awake.clear()
        await asyncio.sleep(self._state.config.gc_pause)
        self._last = asyncio.get_running_loop().time()
        self._state.awake.set()
