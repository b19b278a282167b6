"""Claims: the intent to send a waiting child, stored before anything is sent."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from django.db.models import Exists, Max, OuterRef, Q

from backends.models import Backend
from jobgroups import events
from jobgroups.clock import now
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.writing import Fence, GroupWrite, group_transaction, unit_of_work
from jobgroups.states import AttemptState, ChildStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """What the runner needs to send a child, committed as an intent before anything is sent."""

    attempt_id: int
    number: int
    prompt_id: str
    client_id: str
    group_id: str
    child_id: str
    seed: int
    timeout_seconds: int
    workflow_json: str
    parameters_json: str


@unit_of_work
def child_claim(*, fence: Fence, client_id: str, depth: int) -> Claim | None:
    """Claim the backend's oldest waiting child: store the intent to send it.

    Args:
        fence: the lease on the backend.
        client_id: of the socket that will hear the prompt's events.
        depth: prompts of ours that may stand at the backend, all that were not seen to end counted.

    Returns:
        The claim, or None: nothing waits, no place is free, the backend is disabled, or a running
        prompt there is being stopped (ComfyUI's interrupt flag is process-wide: a second prompt
        could be hit by it).
    """
    active = Attempt.objects.filter(backend_id=fence.backend_id, ended_at__isnull=True)
    stopping = active.filter(state=AttemptState.RUNNING, stop_requested_at__isnull=False)
    if active.count() >= depth or stopping.exists():
        return None
    if not Backend.objects.filter(pk=fence.backend_id, enabled=True).exists():
        return None
    while (candidate := _oldest_waiting(fence.backend_id)) is not None:
        claim = _claim(candidate, fence, client_id)
        if claim is not None:
            return claim
    return None


def _oldest_waiting(backend_id: str) -> tuple[str, str] | None:
    waiting = ChildJob.objects.filter(
        Q(not_before__isnull=True) | Q(not_before__lte=now()),
        # An older attempt may still be stopping: two prompts of one child never run at once.
        ~Exists(Attempt.objects.filter(child=OuterRef("pk"), ended_at__isnull=True)),
        backend_id=backend_id,
        status=ChildStatus.QUEUED,
        current_attempt__isnull=True,
    )
    return (
        waiting.order_by("queued_at", "group_id", "position").values_list("id", "group_id").first()
    )


def _claim(candidate: tuple[str, str], fence: Fence, client_id: str) -> Claim | None:
    child_id, group_id = candidate
    with group_transaction(group_id, fence=fence) as write:
        waiting = ChildJob.objects.filter(
            pk=child_id, status=ChildStatus.QUEUED, current_attempt__isnull=True
        )
        child = waiting.select_for_update().first()
        if child is None:
            return None
        attempt = Attempt.objects.create(
            child=child,
            number=1 + (child.attempts.aggregate(last=Max("number"))["last"] or 0),
            run=write.group.run,
            backend_id=fence.backend_id,
            prompt_id=str(uuid.uuid4()),
            client_id=client_id,
            epoch=fence.epoch,
            created_at=now(),
        )
        waiting.update(current_attempt=attempt)
        if not write.group.claimed:
            _first_claim(write)
        return Claim(
            attempt_id=attempt.pk,
            number=attempt.number,
            prompt_id=attempt.prompt_id,
            client_id=client_id,
            group_id=group_id,
            child_id=child_id,
            seed=child.seed,
            timeout_seconds=write.group.timeout_seconds,
            workflow_json=write.group.workflow_json,
            parameters_json=write.group.parameters_json,
        )


def _first_claim(write: GroupWrite) -> None:
    write.group.claimed = True
    if write.group.accepted_without_runner:
        write.add(events.group_started(write.group))
    write.derive_anew()
