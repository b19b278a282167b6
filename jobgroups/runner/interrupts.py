"""Interrupts that a session sends to its backend, and which prompt each of them ended.

ComfyUI's interrupt flag is process-wide: the flag of an interrupt that arrives too late ends the
next prompt. Each interrupt ends at most one prompt. So a prompt of ours that ends as interrupted,
and whose own stop was not requested, was ended by an interrupt of ours only if

- that interrupt was sent for another prompt, in the moments before this prompt's end, and
- its own target is not known to have ended as interrupted, and
- it has not ended a third prompt.

Otherwise a user interrupted the prompt at the backend. A target that was sent several interrupts
used one of them; which of the others was lost is not known, so these still count. All times are
monotonic.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from backends.comfyui.answers import Queue
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.versions import Feature, has
from jobgroups.domain.stops import SentStop

_KEPT: Final = 100  #: Entries that are kept; only those of the last few seconds matter.


@dataclass(slots=True, eq=False)
class _Interrupt:
    """One interrupt; the backend received it between the two times."""

    target: str
    sent_at: float
    answered_at: float = float("inf")


class InterruptLog:
    """Records which interrupts may have ended another prompt than their target."""

    def __init__(self) -> None:
        self._unused: deque[_Interrupt] = deque(maxlen=_KEPT)
        self._ended: deque[str] = deque(maxlen=_KEPT)

    @contextlib.contextmanager
    def sending(self, target: str) -> Iterator[None]:
        interrupt = _Interrupt(target, time.monotonic())
        self._unused.append(interrupt)
        try:
            yield
        finally:
            interrupt.answered_at = time.monotonic()

    def target_ended(self, target: str) -> None:
        """Record that a prompt ended as interrupted: it used one of the interrupts sent for it."""
        if target in self._ended:
            return
        self._ended.append(target)
        for interrupt in self._unused:
            if interrupt.target == target:
                self._unused.remove(interrupt)
                return

    def targets(self, prompt_id: str, *, since: float, until: float) -> set[str]:
        """Return the other prompts whose interrupts may have ended ``prompt_id`` in that interval."""
        return {interrupt.target for interrupt in self._suspects(prompt_id, since, until)}

    def use(self, prompt_id: str, *, since: float, until: float) -> bool:
        """Return whether an interrupt of another prompt ended this one, and count it as used."""
        suspect = next(self._suspects(prompt_id, since, until), None)
        if suspect is None:
            return False
        self._unused.remove(suspect)
        return True

    def _suspects(self, prompt_id: str, since: float, until: float) -> Iterator[_Interrupt]:
        return (
            interrupt
            for interrupt in self._unused
            if interrupt.target != prompt_id
            and interrupt.answered_at >= since
            and interrupt.sent_at <= until
        )


def runs_alone(queue: Queue, prompt_id: str, is_own: Callable[[str], bool]) -> tuple[bool, str]:
    """Return whether a prompt runs, and why an interrupt of what runs may hit another client, as a
    clause.
    """
    running = [item.prompt_id for item in queue.running]
    if prompt_id not in running:
        return False, ""
    others = sum(
        item.prompt_id != prompt_id and not is_own(item.prompt_id)
        for item in (*queue.running, *queue.pending)
    )
    if not others:
        return running == [prompt_id], ""
    foreign = "1 prompt" if others == 1 else f"{others} prompts"
    return True, f"{foreign} of other clients in its queue could be hit"


@dataclass(slots=True, eq=False)
class Interrupter:
    client: ComfyClient
    lease_is_fresh: Callable[[], bool]  #: Returns whether the backend may be changed now.
    is_own: Callable[[str], bool]  #: Returns whether a prompt id is one of ours.
    version: Callable[[], str | None]  #: Returns ComfyUI's version.
    log: InterruptLog = field(default_factory=InterruptLog, init=False)

    async def interrupt(self, prompt_id: str) -> SentStop:
        """Cancel a running prompt as a job, or interrupt it by its id, where ComfyUI is older than
        0.26.

        A ComfyUI below 0.3.57 ignores the id and interrupts the prompt that runs. It is interrupted
        only if its queue, read just before, shows this prompt running and no prompt of another
        client. A waiting prompt of ours that is interrupted instead is rendered again. Raises
        ``BackendError`` if the backend does not answer.
        """
        may_cancel = has(self.version(), Feature.CANCEL) and self.lease_is_fresh()
        # A backend that was downgraded since its last probe does not know the route.
        if may_cancel and await self.client.cancel_job(prompt_id) is not None:
            return SentStop(is_targeted=True, is_cancel=True)
        is_targeted = has(self.version(), Feature.TARGETED_INTERRUPT)
        if not is_targeted:
            is_running, why = await self._runs_alone(prompt_id)
            if why or not is_running:
                return SentStop(why)
        # Reading the queue may have taken long.
        if self.lease_is_fresh():
            with self.log.sending(prompt_id):
                await self.client.interrupt(prompt_id)
        return SentStop(is_targeted=is_targeted)

    async def _runs_alone(self, prompt_id: str) -> tuple[bool, str]:
        """Return whether a prompt runs, and what forbids an interrupt without a target."""
        try:
            is_running, why = runs_alone(await self.client.queue(), prompt_id, self.is_own)
        except AnswerTooLarge:
            is_running, why = True, "its queue is too long to be read"
        version = self.version() or "of unknown version"
        return (
            is_running,
            why and f"ComfyUI {version} is not known to stop one prompt by its id, and {why}",
        )

    async def ended_by_other(self, prompt_id: str, *, since: float, until: float) -> bool:
        """Return whether the interrupt of another prompt ended this one, which ended as
        interrupted.

        The other prompt ran before, so its end is in the history. If the history does not say how
        it ended, its interrupt counts as unused: the child is rendered again rather than lost.
        ``since`` is the monotonic time from which on an interrupt may have ended this prompt,
        ``until`` that of its end.
        """
        for target in self.log.targets(prompt_id, since=since, until=until):
            with contextlib.suppress(BackendError):
                entry = await self.client.history(target)
                if entry is not None and entry.outcome == "interrupted":
                    self.log.target_ended(target)
        return self.log.use(prompt_id, since=since, until=until)
