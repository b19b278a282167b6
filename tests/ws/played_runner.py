"""A runner that a test controls: it changes children through the services, as the real one does."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.events.hub import hub
from jobgroups.events.messages import Message, ProgressFrame
from jobgroups.models import Attempt
from jobgroups.queries import work
from jobgroups.serializers import to_json
from jobgroups.services import attempts, expiry, holds, runners
from tests.harness import factories


@dataclass
class PlayedRunner:
    """All methods are synchronous and write to the database; call them in a thread."""

    names: tuple[str, ...] = ("gpu_1", "gpu_2", "gpu_3")
    fences: dict[str, FencingToken] = field(default_factory=dict)
    #: The newest claim of each child, and all claims.
    claims: dict[str, Attempt] = field(default_factory=dict)
    all_claims: list[Attempt] = field(default_factory=list)

    def start(self) -> None:
        """Register the runner and its backends, and acquire their leases."""
        runners.runner_register(name="runner", instance="1", version="0")
        self.fences = {name: factories.online(name) for name in self.names}

    def submit(self, backend_ids: tuple[str, ...] = (), **fields: Any) -> str:
        return factories.submit(*(backend_ids or self.names), base_seed=42, **fields).id

    def claim(self, backend_id: str) -> Attempt | None:
        """Claim the backend's oldest queued child, and store that ComfyUI accepted it."""
        fence = self.fences[backend_id]
        claim = factories.claim_alone(fence=fence, client_id="c", depth=1000).claim
        if claim is not None:
            attempts.attempt_accepted(attempt_id=claim.pk, fence=fence)
            self.claims[claim.child_id] = claim
            self.all_claims.append(claim)
        return claim

    def begin(self, backend_id: str) -> Attempt:
        """Claim the backend's oldest queued child, and store that it started."""
        claim = self.claim(backend_id)
        assert claim is not None
        self.started(claim)
        return claim

    def _on(self, claim: Attempt) -> dict[str, Any]:
        backend_id = work.attempt_with_group(claim.pk).backend_id
        return {"attempt_id": claim.pk, "fence": self.fences[backend_id]}

    def started(self, claim: Attempt) -> None:
        attempts.attempt_started(**self._on(claim))

    def succeeded(self, claim: Attempt) -> None:
        attempts.attempt_ended(**self._on(claim), end=factories.end())

    def failed(self, claim: Attempt) -> None:
        """Store that ComfyUI raised an error."""
        end = factories.end(AttemptState.ERROR, failure=FailureClass.OUT_OF_MEMORY)
        attempts.attempt_ended(**self._on(claim), end=end)

    def refused(self, claim: Attempt) -> None:
        kind = FailureClass.NODE_OR_MODEL_MISSING
        attempts.attempt_refused(**self._on(claim), message="no such model", details={}, kind=kind)

    def moved(self, claim: Attempt) -> None:
        """Reassign the queued children of its backend, which is drained."""
        expiry.children_reassign(fence=self._on(claim)["fence"], reason="it is drained")

    def evicted(self, claim: Attempt) -> None:
        """Pause its backend at once and resume it: its prompts are evicted."""
        fence = self._on(claim)["fence"]
        factories.evict(fence)
        holds.backend_resume(backend_id=fence.backend_id)

    def interrupted_by_other(self, claim: Attempt) -> None:
        """Store that another prompt's stop interrupted it: its child is requeued."""
        end = factories.end(AttemptState.INTERRUPTED)
        attempts.attempt_interrupted_by_other(**self._on(claim), end=end)

    def run_to_end(self) -> None:
        for name in self.names:
            while (claim := self.claim(name)) is not None:
                self.started(claim)
                self.succeeded(claim)

    def random_step(self, dice: random.Random) -> None:
        """Do one random step of an attempt, which may be too late."""
        claim = dice.choice(self.all_claims) if self.all_claims else None
        steps: list[Callable[[Attempt], object]] = [
            *(self.started, self.started, self.succeeded, self.failed, self.interrupted_by_other),
            *(self.refused, self.moved, self.evicted),
            lambda claim: factories.time_out(claim, self._on(claim)["fence"]),
            lambda claim: factories.stall(claim, self._on(claim)["fence"]),
            lambda claim: factories.lose(claim, self._on(claim)["fence"]),
        ]
        # Frequent, since every other step needs a claim.
        if claim is None or dice.random() < 0.3:
            self.claim(dice.choice(self.names))
        else:
            dice.choice(steps)(claim)


def progress(group_id: str, child_id: str, attempt: int, percent: float) -> None:
    fields = {"type": "child_progress", "job_id": child_id, "attempt": attempt, "progress": percent}
    frame = ProgressFrame(child_id, attempt, percent, to_json(fields))
    hub.publish(Message(group_id=group_id, progress=(frame,)))
