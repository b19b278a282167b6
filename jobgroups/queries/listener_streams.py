"""Reads what the sockets of the ComfyUI listener show: prompts, their states and their ends."""

import datetime as dt
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count, F, Min, OuterRef, Q, QuerySet, Subquery

from jobgroups.database.statements import KEY, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.listener_records import PromptRecord, end_message, milliseconds
from jobgroups.domain.outputs import SENT, reported_files
from jobgroups.domain.prompt_ends import End, Picture
from jobgroups.domain.states import CHILD_FINAL, ChildStatus
from jobgroups.models import Attempt, ChildJob, ListenerPrompt
from jobgroups.queries.groups import open_groups
from jobgroups.queries.listener_prompts import CHILD, RECORD, graph_of, open_count, prompt_record

#: How long an end that no socket got is kept for a client that connects again.
_KEPT: Final = dt.timedelta(minutes=10)


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
    rows = _states(group_id)
    if not rows:
        return None
    prompt, (owner, attempt, began_at, ended_at) = rows[0][0], rows[0][len(RECORD) :]
    stored = prompt_record(rows[0], "{}")
    started_ms = None if began_at is None else milliseconds(began_at)
    end = None
    if stored.status in CHILD_FINAL and ended_at is not None:
        if stored.status is not ChildStatus.COMPLETED:
            # A success needs no workflow, which may be large.
            stored = prompt_record(rows[0], graph_of(prompt))
        end = _end(stored, attempt or 0, started_ms)
    return PromptState(
        id=prompt,
        prompt_id=stored.prompt_id,
        job_id=stored.job_id,
        attempt=attempt or 0,
        started_ms=started_ms,
        end=end,
        remaining=open_count(owner),
    )


def _state() -> "QuerySet[ListenerPrompt, tuple[Any, ...]]":
    # Also while a job waits for a retry.
    starts = Attempt.objects.filter(
        child=OuterRef(f"{CHILD}pk"), run=OuterRef(f"{CHILD}run"), started_at__isnull=False
    )
    first = Subquery(starts.order_by("number").values("started_at")[:1])
    rows = ListenerPrompt.objects.filter(group=KEY).order_by().annotate(began_at=first)
    own = ("owner", f"{CHILD}current_attempt__number", "began_at", "group__completed_at")
    return rows.values_list(*RECORD.values(), *own)


_states: Final = PreparedValues(_state)


def _end(record: PromptRecord, attempt: int, started_ms: int | None) -> End:
    kind, message = end_message(record)
    return End(
        attempt=attempt,
        started_ms=started_ms,
        ended_ms=message["timestamp"],
        kind=kind,
        message=message,
        outputs=record.outputs,
        cached=record.cached,
        classes=_classes(record.graph) if kind == "execution_interrupted" else {},
        pictures=_pictures(record),
    )


def _classes(graph: bytes) -> dict[str, str]:
    nodes = json.loads(graph)
    return {name: str(node.get("class_type", "")) for name, node in nodes.items()}


def _pictures(record: PromptRecord) -> list[Picture]:
    """Return the stored pictures that came as frames, in the order of their files."""
    sent = {node: _sent_files(output) for node, output in record.node_outputs.items()}
    names = [name for files in sent.values() for name in files]
    if not names:
        return []
    child = ChildJob.objects.only("outputs_json").get(pk=record.job_id)
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
