"""The interrupts that a session sent to its backend, until the prompt that each one ended is known.

ComfyUI's interrupt flag is process-wide: the flag of an interrupt that arrives too late ends the next
prompt. Each interrupt ends at most one prompt. So a prompt of ours that ends as interrupted, and whose
own stop was not requested, was ended by an interrupt of ours only if

- that interrupt was sent for another prompt, in the moments before this prompt's end, and
- its own target is not known to have ended as interrupted, and
- it has not ended a third prompt.

Otherwise a user interrupted the prompt at the machine. A target that was sent several interrupts used
one of them; which of the others was lost is not known, so these still count. Uses the monotonic clock.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: Entries that are kept; only the last few seconds are ever looked at.
_KEPT: Final = 100


@dataclass(slots=True, eq=False)
class _Interrupt:
    """One interrupt; the backend received it between the two times."""

    target: str
    sent_at: float
    answered_at: float = float("inf")


class Interrupts:
    """Remembers which interrupts may have ended another prompt than their target."""

    def __init__(self) -> None:
        self._unused: deque[_Interrupt] = deque(maxlen=_KEPT)
        self._ended: deque[str] = deque(maxlen=_KEPT)

    @contextlib.contextmanager
    def sending(self, target: str) -> Iterator[None]:
        """Record an interrupt that is sent within the block."""
        interrupt = _Interrupt(target, time.monotonic())
        self._unused.append(interrupt)
        try:
            yield
        finally:
            interrupt.answered_at = time.monotonic()

    def target_ended(self, target: str) -> None:
        """Take in that a prompt ended as interrupted: it used one of the interrupts sent for it."""
        if target in self._ended:
            return
        self._ended.append(target)
        for interrupt in self._unused:
            if interrupt.target == target:
                self._unused.remove(interrupt)
                return

    def targets(self, prompt_id: str, *, since: float, until: float) -> set[str]:
        """Return the other prompts whose interrupts may have ended ``prompt_id`` in that interval."""
        return {one.target for one in self._suspects(prompt_id, since, until)}

    def use(self, prompt_id: str, *, since: float, until: float) -> bool:
        """Return whether an interrupt of another prompt ended this one, and count it as used."""
        suspect = next(self._suspects(prompt_id, since, until), None)
        if suspect is None:
            return False
        self._unused.remove(suspect)
        return True

    def _suspects(self, prompt_id: str, since: float, until: float) -> Iterator[_Interrupt]:
        return (
            one
            for one in self._unused
            if one.target != prompt_id and one.answered_at >= since and one.sent_at <= until
        )
