"""What tests of the database start from: a backend with a lease, a group, a claimed child."""

import datetime as dt
import json
import time
from typing import Any

from blake3 import blake3
from django.db import connection

from backends.models import Backend, Reachability
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.pool import Needs, OpenVariant, PoolSnapshot
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.schedule import Backlog, Choice
from jobgroups.domain.states import AttemptState, ErrorType, RetryScope
from jobgroups.models import Asset, Attempt, ChildJob, JobGroup
from jobgroups.services import assets, attempts, claims, holds, leases, stored_files
from jobgroups.services.submission import Submission, group_submit
from jobgroups.workflow import build_template

WORKFLOW: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20, "cfg": 7.0}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "out"}},
}
OUTPUTS: dict[str, Any] = {
    "images": [{"filename": "a.png", "url": "http://localhost:8188/view?filename=a.png"}]
}


def backend(backend_id: str = "gpu-1", **fields: Any) -> Backend:
    fields = {"url": f"http://{backend_id}.test:8188", "name": backend_id, **fields}
    return Backend.objects.create(id=backend_id, **fields)


def lease(backend_id: str = "gpu-1", runner: str = "runner") -> FencingToken:
    fence = leases.lease_acquire(backend_id=backend_id, runner=runner)
    assert fence is not None
    return fence


def online(backend_id: str = "gpu-1", vram: int = 0, **fields: Any) -> FencingToken:
    """Register a backend that responds, with so many GiB of memory, and take its lease."""
    devices = [{"name": f"cuda:0 Card {vram}", "vram_total": vram * 2**30}] if vram else []
    responds = {"reachability": Reachability.ONLINE, "last_seen_at": now(), "devices": devices}
    backend(backend_id, **{**responds, **fields})
    return lease(backend_id)


def farm(count: int, **fields: Any) -> list[FencingToken]:
    """Register gpu-1, gpu-2 and so on, which respond, and take their leases."""
    return [online(f"gpu-{number}", **fields) for number in range(1, count + 1)]


def submission(*backend_ids: str, workflow: dict[str, Any] = WORKFLOW, **fields: Any) -> Submission:
    template = build_template(workflow, fields.get("parameters"))
    return Submission(
        workflow=workflow, template=template, backend_ids=backend_ids or ("gpu-1",), **fields
    )


def submit(*backend_ids: str, runner_alive: bool = True, **fields: Any) -> JobGroup:
    group = group_submit(
        submission=submission(*backend_ids, **fields), runner_alive=runner_alive
    ).group
    # Jobs are ordered by milliseconds: the group that a test submits next comes after this one.
    time.sleep(0.001)
    return group


def submit_to_pool(count: int, *candidates: str, **fields: Any) -> JobGroup:
    fields = {"retry_elsewhere": RetryScope.GROUP, "max_attempts": 2, **fields}
    return submit(*(candidates or ("*",)), count=count, **fields)


def claim_alone(**fields: Any) -> claims.ClaimResult:
    return claims.child_claim(claims.ClaimRequest(**fields))


def choice_of(variant: OpenVariant, *, has_rival: bool = False) -> Choice:
    backlog = Backlog(PoolSnapshot())
    return Choice(variant=variant, backend_id="", prompts=0, has_rival=has_rival, backlog=backlog)


def pool_choice(group: JobGroup, *, has_rival: bool = False) -> Choice:
    variant = group.variants.get(number=0)
    chosen = OpenVariant(
        variant_id=variant.pk,
        group_id=group.pk,
        number=0,
        queued_at=variant.queued_at,
        needs=Needs(tuple(variant.candidates), tuple(group.required_capabilities)),
        workflow_digest=variant.workflow_digest,
        unsent=1,
    )
    return choice_of(chosen, has_rival=has_rival)


def claim_from_pool(fence: FencingToken, group: JobGroup) -> Attempt:
    choice = pool_choice(group)
    found = claim_alone(fence=fence, client_id="socket-1", depth=2, choice=choice).claim
    assert found is not None
    return found


def claim(fence: FencingToken, depth: int = 2) -> Attempt:
    found = claim_alone(fence=fence, client_id="socket-1", depth=depth).claim
    assert found is not None
    return found


def start(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    attempts.attempt_started(attempt_id=claimed.pk, fence=fence)


def begin(fence: FencingToken, depth: int = 2) -> Attempt:
    claimed = claim(fence, depth)
    start(claimed, fence)
    return claimed


def claiming(fence: FencingToken, *backend_ids: str, **fields: Any) -> tuple[JobGroup, Attempt]:
    """Submit a group, of one job at the backend by default, and claim its first job."""
    return submit(*backend_ids or [fence.backend_id], **fields), claim(fence)


def running(fence: FencingToken, *backend_ids: str, **fields: Any) -> tuple[JobGroup, Attempt]:
    """Submit a group, of one job at the backend by default, and start its first job."""
    return submit(*backend_ids or [fence.backend_id], **fields), begin(fence)


def accept(fence: FencingToken) -> Attempt:
    claimed = claim(fence)
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    return claimed


def abandon(claimed: Attempt, fence: FencingToken) -> None:
    """Have a prompt sent, and never accepted as far as the runner can see."""
    attempts.attempt_uncertain(attempt_id=claimed.pk, fence=fence)
    attempts.attempt_never_accepted(
        attempt_id=claimed.pk, fence=fence, remember_until=now() + dt.timedelta(days=1)
    )


def time_out(claimed: Attempt, fence: FencingToken, *, offline: bool = False) -> bool:
    """Have the time of an attempt be up, at an offline backend or one that answers."""
    return attempts.attempt_timed_out(attempt_id=claimed.pk, fence=fence, offline=offline)


def stall(claimed: Attempt, fence: FencingToken, **fields: bool) -> bool:
    """Have an attempt hang long after its stop."""
    return attempts.attempt_stalled(attempt_id=claimed.pk, fence=fence, **fields)


def lose(claimed: Attempt, fence: FencingToken) -> bool:
    return attempts.attempt_lost(
        attempt_id=claimed.pk, fence=fence, reason=f"{fence.backend_id} restarted"
    )


def not_sent(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_not_sent(attempt_id=claimed.pk, fence=fence)


def interrupted_by_other(claimed: Attempt, fence: FencingToken) -> None:
    interrupted = end(AttemptState.INTERRUPTED)
    attempts.attempt_interrupted_by_other(attempt_id=claimed.pk, fence=fence, end=interrupted)


def crash(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_failed_internally(attempt_id=claimed.pk, fence=fence, message="A defect.")


def row(backend_id: str = "gpu-1") -> Backend:
    return Backend.objects.get(pk=backend_id)


def evict(fence: FencingToken) -> None:
    holds.backend_hold(backend_id=fence.backend_id, hold=Hold.PAUSE, at_once=True)
    holds.prompts_evict(fence=fence)


def idle(fence: FencingToken, depth: int = 5) -> bool:
    """Return whether there is nothing to claim at a backend; else claim it."""
    return claim_alone(fence=fence, client_id="c", depth=depth).claim is None


def end(state: AttemptState = AttemptState.SUCCESS, **fields: Any) -> AttemptResult:
    """Return an end; of a failure, with ComfyUI's words."""
    if state is not AttemptState.SUCCESS:
        fields = {"error_message": "CUDA out of memory", "error_type": ErrorType.COMFYUI, **fields}
    return AttemptResult(state=state, outputs=fields.pop("outputs", OUTPUTS), **fields)


def finish(
    claimed: Attempt, fence: FencingToken, state: AttemptState = AttemptState.SUCCESS, **fields: Any
) -> bool:
    return attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=end(state, **fields))


def removed(claimed: Attempt, fence: FencingToken) -> None:
    gone = end(AttemptState.INTERRUPTED, error_type=ErrorType.INTERRUPTED, outputs={}, ran=False)
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=gone)


def fail(
    claimed: Attempt, fence: FencingToken, failure: FailureClass = FailureClass.NODE_ERROR
) -> None:
    failed = end(AttemptState.ERROR, failure=failure, error_message=f"It met {failure}.")
    assert attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=failed)


def asset(content: bytes = b"cat", name: str = "cat.png", owner_id: int | None = None) -> Asset:
    """Store a file that a user uploads."""
    return assets.asset_store(received_file(content, name), owner_id=owner_id)[0]


def received_file(content: bytes, name: str = "cat.png") -> assets.ReceivedFile:
    """Write a file as an upload leaves it."""
    path = stored_files.incoming_folder() / "received"
    path.write_bytes(content)
    return assets.ReceivedFile(
        path=path,
        name=name,
        content_type="image/png",
        size_bytes=len(content),
        hash=blake3(content).hexdigest(),
    )


def only(group: JobGroup) -> ChildJob:
    return group.children.get()


def log(group: JobGroup) -> list[dict[str, Any]]:
    return [json.loads(event.frame) for event in group.events.order_by("seq")]


def types(group: JobGroup) -> list[str]:
    return [event["type"] for event in log(group)]


def fresh(row: ChildJob | JobGroup) -> Any:
    return type(row).objects.get(pk=row.pk)


def allow_writes(*, allowed: bool) -> None:
    """Let the calling thread's connection write, or have the database refuse its writes."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"PRAGMA query_only = {'OFF' if allowed else 'ON'}")
        else:
            cursor.execute(f"SET default_transaction_read_only = {'off' if allowed else 'on'}")
