"""What tests of the database start from: a backend with a lease, a group, a claimed child."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from django.db import connection

from backends.models import Backend, Reachability
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.models import ChildJob, JobGroup
from jobgroups.services import attempts, claims, holds, leases
from jobgroups.services.claims import Claim
from jobgroups.services.outcomes import AttemptResult
from jobgroups.services.submission import Submission, group_submit

WORKFLOW: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20, "cfg": 7.0}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "out"}},
}
OUTPUTS: dict[str, Any] = {"images": [{"filename": "a.png", "url": "http://localhost:8188/view?filename=a.png"}]}


def backend(backend_id: str = "gpu-1", **fields: Any) -> Backend:
    """Register a backend."""
    fields = {"url": f"http://{backend_id}.test:8188", "name": backend_id, **fields}
    return Backend.objects.create(id=backend_id, **fields)


def lease(backend_id: str = "gpu-1", runner: str = "runner") -> FencingToken:
    """Take a backend's lease."""
    fence = leases.lease_acquire(backend_id=backend_id, runner=runner)
    assert fence is not None
    return fence


def online(backend_id: str = "gpu-1", vram: int = 0, **fields: Any) -> FencingToken:
    """Register a backend that responds, with so many GiB of memory, and take its lease."""
    devices = [{"name": f"cuda:0 Card {vram}", "vram_total": vram * 2**30}] if vram else []
    responds = {"reachability": Reachability.ONLINE, "last_seen_at": now(), "devices": devices}
    backend(backend_id, **{**responds, **fields})
    return lease(backend_id)


def submit(*backend_ids: str, runner_alive: bool = True, **fields: Any) -> JobGroup:
    """Submit a group."""
    submission = Submission(workflow=WORKFLOW, backend_ids=backend_ids or ("gpu-1",), **fields)
    return group_submit(submission=submission, runner_alive=runner_alive).group


def claim(fence: FencingToken, depth: int = 2) -> Claim:
    """Claim the next child of a backend."""
    found = claims.child_claim(fence=fence, client_id="socket-1", depth=depth)
    assert found is not None
    return found


def start(claimed: Claim, fence: FencingToken) -> None:
    """Have a claimed child accepted and started."""
    attempts.attempt_accepted(attempt_id=claimed.attempt_id, fence=fence)
    attempts.attempt_started(attempt_id=claimed.attempt_id, fence=fence)


def begin(fence: FencingToken, depth: int = 2) -> Claim:
    """Have the next child of a backend start."""
    claimed = claim(fence, depth)
    start(claimed, fence)
    return claimed


def accept(fence: FencingToken) -> Claim:
    """Have the next child of a backend accepted."""
    claimed = claim(fence)
    attempts.attempt_accepted(attempt_id=claimed.attempt_id, fence=fence)
    return claimed


def abandon(claimed: Claim, fence: FencingToken) -> None:
    """Have a prompt sent, and never accepted as far as the runner can see."""
    attempts.attempt_uncertain(attempt_id=claimed.attempt_id, fence=fence)
    attempts.attempt_never_accepted(
        attempt_id=claimed.attempt_id, fence=fence, remember_until=now() + dt.timedelta(days=1)
    )


def evict(fence: FencingToken) -> None:
    """Pause a backend, and take back what was sent to it."""
    holds.backend_hold(backend_id=fence.backend_id, hold=Hold.PAUSE, at_once=True)
    holds.prompts_evict(fence=fence)


def idle(fence: FencingToken) -> bool:
    """Return whether there is nothing to claim at a backend."""
    return claims.child_claim(fence=fence, client_id="c", depth=5) is None


def end(state: AttemptState = AttemptState.SUCCESS, **fields: Any) -> AttemptResult:
    """Return an end; of a failure, with ComfyUI's words."""
    if state is not AttemptState.SUCCESS:
        fields = {"error_message": "CUDA out of memory", "error_type": ErrorType.COMFYUI, **fields}
    return AttemptResult(state=state, outputs=fields.pop("outputs", OUTPUTS), **fields)


def finish(claimed: Claim, fence: FencingToken, state: AttemptState = AttemptState.SUCCESS) -> bool:
    """Have an attempt end."""
    return attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end(state))


def fail(claimed: Claim, fence: FencingToken, failure: FailureClass = FailureClass.NODE_ERROR) -> None:
    """Have an attempt fail with this class."""
    failed = end(AttemptState.ERROR, failure=failure, error_message=f"It met {failure}.")
    assert attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=failed)


def only(group: JobGroup) -> ChildJob:
    """Return the only child of a group."""
    return group.children.get()


def log(group: JobGroup) -> list[dict[str, Any]]:
    """Return the group's events, as clients see them."""
    return [json.loads(event.frame) for event in group.events.order_by("seq")]


def types(group: JobGroup) -> list[str]:
    """Return the types of the group's events, in order."""
    return [event["type"] for event in log(group)]


def fresh(row: ChildJob | JobGroup) -> Any:
    """Return the row as it is stored now."""
    return type(row).objects.get(pk=row.pk)


def allow_writes(*, allowed: bool) -> None:
    """Let the calling thread's connection write, or have the database refuse its writes."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"PRAGMA query_only = {'OFF' if allowed else 'ON'}")
        else:
            cursor.execute(f"SET default_transaction_read_only = {'off' if allowed else 'on'}")
