"""Reads what the sockets of the ComfyUI listener show: prompts, their states and their ends."""

import datetime as dt
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count, F, Min, Q, QuerySet

from jobgroups.domain.clock import now
from jobgroups.domain.listener_records import end_message, milliseconds
from jobgroups.domain.outputs import SENT, reported_files
from jobgroups.domain.prompt_ends import End, Picture
from jobgroups.domain.states import CHILD_FINAL
from jobgroups.models import LONG, ChildJob, ListenerPrompt
from jobgroups.queries.groups import open_groups
from jobgroups.queries.listener_prompts import open_prompts, record_of

#: How long an end that no socket got is kept for a client that connects again.
_KEPT: Final = dt.timedelta(minutes=10)
_LONG: Final = tuple(f"group__{name}" for name in LONG)


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A prompt whose client is to get frames of it."""

    id: int
    owner: str
    client_id: str
    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """The state of one prompt, and how much its owner has to do.

    Attributes:
        attempt: the number of the newest attempt; 0: there is none.
        started_ms: when its first attempt of this run started to execute; None: none did.
        end: None: it has not ended.
        remaining: the number of prompts of its owner that have not ended.
    """

    id: int
    prompt_id: str
    job_id: str
    attempt: int
    started_ms: int | None
    end: End | None
    remaining: int


def prompts_to_present(clients: Collection[tuple[str, str]], limit: int) -> list[NewPrompt]:
    """Return prompts of clients (owner, client id) whose ends no socket got, in the order in which
    they started; those that have not started come last.
    """
    whose = Q()
    for owner, client_id in clients:
        whose |= Q(owner=owner, client_id=client_id)
    is_due = Q(group__in=open_groups()) | Q(group__completed_at__gte=now() - _KEPT)
    rows = ListenerPrompt.objects.filter(whose, is_due, presented_at=None)
    first = Min("group__children__attempts__started_at")
    ordered = rows.annotate(began_at=first).order_by(F("began_at").asc(nulls_last=True), "id")
    columns = ordered.values_list("id", "owner", "client_id", "group_id")
    return [NewPrompt(*row) for row in columns[:limit]]


def open_counts(owners: Collection[str]) -> dict[str, int]:
    """Return the number of prompts of each owner that have not ended; none: 0."""
    rows = ListenerPrompt.objects.filter(owner__in=owners, group__in=open_groups())
    counts = dict(rows.order_by().values_list("owner").annotate(Count("pk")))
    return {owner: counts.get(owner, 0) for owner in owners}


def prompt_state(group_id: str) -> PromptState | None:
    """Return the state of the prompt of a group; None: it was deleted."""
    child = _children(group_id).first()
    if child is None:
        return None
    prompt: ListenerPrompt = child.group.listener_prompt
    started_ms = _started_ms(child)
    is_over = child.status in CHILD_FINAL and child.group.completed_at is not None
    return PromptState(
        id=prompt.pk,
        prompt_id=prompt.prompt_id,
        job_id=child.pk,
        attempt=_attempt(child),
        started_ms=started_ms,
        end=_end(child, prompt, started_ms) if is_over else None,
        remaining=open_prompts(prompt.owner).count(),
    )


def _children(group_id: str) -> "QuerySet[ChildJob]":
    rows = ChildJob.objects.filter(group=group_id).order_by("position")
    return rows.select_related("group__listener_prompt", "current_attempt").defer(*_LONG)


def _started_ms(child: ChildJob) -> int | None:
    """Return when a job started in its run; also while it waits for a retry."""
    if not child.attempt_count:
        return None
    started = child.attempts.filter(run=child.run, started_at__isnull=False)
    first = started.order_by("number").values_list("started_at", flat=True).first()
    return None if first is None else milliseconds(first)


def _attempt(child: ChildJob) -> int:
    return 0 if child.current_attempt is None else child.current_attempt.number


def _end(child: ChildJob, prompt: ListenerPrompt, started_ms: int | None) -> End | None:
    record = record_of(prompt.owner, prompt.prompt_id)
    if record is None or record.ended_at is None:
        # It was deleted, or is retried since.
        return None
    kind, message = end_message(record)
    return End(
        attempt=_attempt(child),
        started_ms=started_ms,
        ended_ms=milliseconds(record.ended_at),
        kind=kind,
        message=message,
        outputs=record.outputs,
        cached=record.cached,
        classes=_classes(record.graph) if kind == "execution_interrupted" else {},
        pictures=_pictures(child, record.node_outputs),
    )


def _classes(graph: bytes) -> dict[str, str]:
    nodes = json.loads(graph)
    return {name: str(node.get("class_type", "")) for name, node in nodes.items()}


def _pictures(child: ChildJob, node_outputs: Mapping[str, Any]) -> list[Picture]:
    """Return the stored pictures that came as frames, in the order of their files."""
    sent = {node: _sent_files(output) for node, output in node_outputs.items()}
    names = [name for files in sent.values() for name in files]
    if not names:
        return []
    files = [file["filename"] for file in reported_files(json.loads(child.outputs_json or "{}"))]
    rows = child.captures.filter(file__isnull=False).select_related("file")
    stored = {files[row.number]: row.file for row in rows if row.number < len(files)}
    return [
        Picture(node, file.stored_name, file.size_bytes, 2 if name.endswith(".png") else 1)
        for node, names in sent.items()
        for name in names
        if (file := stored.get(name)) is not None
    ]


def _sent_files(output: Any) -> list[str]:
    images = output.get("images") if isinstance(output, Mapping) else None
    return [
        item["filename"]
        for item in (images if isinstance(images, list) else ())
        if isinstance(item, Mapping) and item.get("type") == SENT
    ]
