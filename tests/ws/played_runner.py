"""A runner that a test plays: it moves children by the services, as the real one does."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from backends.models import Backend, Reachability
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.events.hub import hub
from jobgroups.events.messages import Message, ProgressFrame
from jobgroups.queries import work
from jobgroups.serializers import to_json
from jobgroups.services import attempts, claims, expiry, holds, leases, outcomes, runners
from jobgroups.services.submission import Submission, group_submit

WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20}}}


@dataclass
class PlayedRunner:
    """All methods are sync and write; call them in a thread."""

    names: tuple[str, ...] = ("gpu_1", "gpu_2", "gpu_3")
    fences: dict[str, FencingToken] = field(default_factory=dict)
    #: The newest claim of each child, and all of them: an older one may still be told of.
    claims: dict[str, claims.Claim] = field(default_factory=dict)
    all_claims: list[claims.Claim] = field(default_factory=list)

    def start(self) -> None:
        """Register the runner and its backends, and take their leases."""
        runners.runner_register(name="played", instance="1", version="0")
        for port, name in enumerate(self.names, start=8188):
            Backend.objects.create(
                id=name, name=name, url=f"http://127.0.0.1:{port}", reachability=Reachability.ONLINE, last_seen_at=now()
            )
            fence = leases.lease_acquire(backend_id=name, runner="played")
            assert fence is not None
            self.fences[name] = fence

    def submit(self, backend_ids: tuple[str, ...] = (), **fields: Any) -> str:
        """Submit a group, one child for each backend, and return its id."""
        submission = Submission(workflow=WORKFLOW, backend_ids=backend_ids or self.names, base_seed=42, **fields)
        return group_submit(submission=submission, runner_alive=True).group.id

    def claim(self, backend_id: str) -> claims.Claim | None:
        """Claim the backend's oldest waiting child, as accepted by ComfyUI."""
        fence = self.fences[backend_id]
        claim = claims.child_claim(fence=fence, client_id="c", depth=1000)
        if claim is not None:
            attempts.attempt_accepted(attempt_id=claim.attempt_id, fence=fence)
            self.claims[claim.child_id] = claim
            self.all_claims.append(claim)
        return claim

    def begin(self, backend_id: str) -> claims.Claim:
        """Claim the backend's oldest waiting child and have it run."""
        claim = self.claim(backend_id)
        assert claim is not None
        self.started(claim)
        return claim

    def fence_of(self, claim: claims.Claim) -> FencingToken:
        """Return the right under which the attempt is written."""
        return self.fences[work.attempt_with_group(claim.attempt_id).backend_id]

    def started(self, claim: claims.Claim) -> None:
        """Tell the first sign of execution."""
        attempts.attempt_started(attempt_id=claim.attempt_id, fence=self.fence_of(claim))

    def succeeded(self, claim: claims.Claim) -> None:
        """Tell that it ended with a picture."""
        end = outcomes.AttemptResult(state=AttemptState.SUCCESS, outputs={"images": []})
        attempts.attempt_ended(attempt_id=claim.attempt_id, fence=self.fence_of(claim), end=end)

    def failed(self, claim: claims.Claim) -> None:
        """Tell that ComfyUI raised an error."""
        end = outcomes.AttemptResult(
            state=AttemptState.ERROR,
            outputs={},
            error_message="CUDA out of memory",
            error_type=ErrorType.COMFYUI,
            failure=FailureClass.OUT_OF_MEMORY,
        )
        attempts.attempt_ended(attempt_id=claim.attempt_id, fence=self.fence_of(claim), end=end)

    def timed_out(self, claim: claims.Claim) -> None:
        """Tell that its time is up."""
        attempts.attempt_timed_out(attempt_id=claim.attempt_id, fence=self.fence_of(claim))

    def stalled(self, claim: claims.Claim) -> None:
        """Tell that it goes on long after its time was up."""
        attempts.attempt_stalled(attempt_id=claim.attempt_id, fence=self.fence_of(claim))

    def refused(self, claim: claims.Claim) -> None:
        """Tell that its backend lacks a model."""
        attempts.attempt_refused(
            attempt_id=claim.attempt_id,
            fence=self.fence_of(claim),
            message="no such model",
            details={},
            kind=FailureClass.NODE_OR_MODEL_MISSING,
        )

    def lost(self, claim: claims.Claim) -> None:
        """Tell that its backend forgot it."""
        attempts.attempt_lost(attempt_id=claim.attempt_id, fence=self.fence_of(claim), reason="it restarted")

    def moved(self, claim: claims.Claim) -> None:
        """Tell that nothing is sent to its backend for a while."""
        expiry.children_reassign(fence=self.fence_of(claim), reason="it is drained")

    def given_back(self, claim: claims.Claim) -> None:
        """Have its backend paused at once, and resumed: what stands there waits again."""
        fence = self.fence_of(claim)
        holds.backend_hold(backend_id=fence.backend_id, hold=Hold.PAUSE, at_once=True)
        holds.prompts_evict(fence=fence)
        holds.backend_resume(backend_id=fence.backend_id)

    def struck(self, claim: claims.Claim) -> None:
        """Tell that the stop of another prompt hit it: its child waits again."""
        end = outcomes.AttemptResult(state=AttemptState.INTERRUPTED, outputs={})
        attempts.attempt_interrupted_by_other(attempt_id=claim.attempt_id, fence=self.fence_of(claim), end=end)

    def run_to_end(self) -> None:
        """Run whatever waits, all to success."""
        for name in self.names:
            while (claim := self.claim(name)) is not None:
                self.started(claim)
                self.succeeded(claim)

    def random_step(self, dice: random.Random) -> None:
        """Do one thing that may happen to a group, legal or too late."""
        claim = dice.choice(self.all_claims) if self.all_claims else None
        steps = [self.started, self.started, self.succeeded, self.failed, self.timed_out]
        steps += [self.struck, self.refused, self.lost, self.stalled, self.moved]
        steps += [self.given_back]
        # As often as the rest together: else nothing is left to happen.
        if claim is None or dice.random() < 0.3:
            self.claim(dice.choice(self.names))
        else:
            dice.choice(steps)(claim)


def progress(group_id: str, child_id: str, attempt: int, percent: float) -> None:
    """Ring with a child's progress, as the runner does."""
    fields = {"type": "child_progress", "job_id": child_id, "attempt": attempt, "progress": percent}
    frame = ProgressFrame(child_id, attempt, percent, to_json(fields))
    hub.publish(Message(group_id=group_id, progress=(frame,)))
