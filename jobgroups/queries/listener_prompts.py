"""Reads prompts of the ComfyUI listener.

Queue and history are two views of one column, ``JobGroup.completed_at``: a prompt is in one of them
at every moment, also while it waits for a retry or was moved.
"""

import datetime as dt
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count, F, Min, Q, QuerySet, Value
from django.db.models.functions import Coalesce, Concat, Length

from jobgroups.database.statements import KEY, Parameter, PreparedValues
from jobgroups.domain.listener_records import (
    JOB_STATUS,
    PromptRecord,
    is_prompt_id,
    milliseconds,
    workflow_id,
)
from jobgroups.domain.states import CHILD_OPEN, ChildStatus
from jobgroups.models import ListenerPrompt
from jobgroups.queries.groups import open_groups
from jobgroups.serializers import to_json

#: Entries of a list of the history, and of jobs, at most.
MAX_LISTED: Final = 200
#: Bytes of the workflows in one list: those after them are empty in it.
_MAX_GRAPHS: Final = 64 * 2**20
_AT_ONCE: Final = 500  #: Workflows of one query.
#: Jobs that are counted at most, as ComfyUI keeps so many entries.
_MAX_COUNTED: Final = 10_000
_ENDED: Final = Q(group__completed_at__isnull=False)
#: Its owner has not removed it from the history since it ended.
_SHOWN: Final = Q(hidden_at__isnull=True) | Q(hidden_at__lt=F("group__completed_at"))
CHILD: Final = "group__children__"
_ATTEMPT: Final = f"{CHILD}current_attempt__"
#: What a record is made of, beside the workflow.
RECORD: Final = {
    "pk": "pk",
    "prompt_id": "prompt_id",
    "client_id": "client_id",
    "number": "number",
    "created_at": "created_at",
    "hidden_at": "hidden_at",
    "group_ended_at": "group__completed_at",
    "targets": "outputs_json",
    "fields": "group__prompt_fields_json",
    "job_id": f"{CHILD}pk",
    "status": f"{CHILD}status",
    "started_at": f"{CHILD}started_at",
    "ended_at": f"{CHILD}completed_at",
    "error": f"{CHILD}error_message",
    "error_type": f"{CHILD}error_type",
    "error_details": f"{CHILD}error_details_json",
    "node_outputs": f"{_ATTEMPT}node_outputs_json",
    "execution": f"{_ATTEMPT}execution_json",
}


def open_prompts(owner: str | Parameter) -> "QuerySet[ListenerPrompt]":
    """Return the prompts of an owner that have not ended, oldest first."""
    rows = ListenerPrompt.objects.filter(group__in=open_groups())
    # Not by the index of the owner: it leads to every prompt that the owner has ever sent.
    return rows.alias(whose=Concat("owner", Value(""))).filter(whose=owner).order_by("id")


def open_count(owner: str) -> int:
    """Return the number of prompts of an owner that have not ended."""
    rows = _open_counts(owner)
    return rows[0][1] if rows else 0


_open_counts: Final = PreparedValues(
    lambda: open_prompts(KEY).order_by().values_list("owner").annotate(Count("pk"))
)


def history_prompts(owner: str) -> "QuerySet[ListenerPrompt]":
    """Return the prompts of an owner that have ended, in the order in which they were sent."""
    return ListenerPrompt.objects.filter(_ENDED, _SHOWN, owner=owner).order_by("id")


def started_prompts(owner: str) -> "QuerySet[ListenerPrompt]":
    """Return the prompts of an owner that have started and not ended, also those that wait for a
    retry; the one that started first is the first.

    It is the one that the owner's programs show now: the prompts of one client id are presented in
    the order of their starts.
    """
    attempts = {
        f"{CHILD}attempts__run": F(f"{CHILD}run"),
        f"{CHILD}attempts__started_at__isnull": False,
    }
    started = open_prompts(owner).filter(**attempts)
    first = Min(f"{CHILD}attempts__started_at")
    return started.annotate(began_at=first).order_by("began_at", "id")


def number_of(prompt: ListenerPrompt) -> float:
    """Return the number of a prompt as ComfyUI has it: the lowest is the first in the queue."""
    return _number(prompt.pk, prompt.number)


def _number(pk: int, number: float | None) -> float:
    if number is None:
        return pk
    return int(number) if float(number).is_integer() else number


def record_of(owner: str, prompt_id: str) -> PromptRecord | None:
    """Return the prompt of an owner with this id; None: there is none."""
    rows = _of_id(owner=owner, prompt_id=prompt_id) if is_prompt_id(prompt_id) else []
    return prompt_record(rows[0], graph_of(rows[0][0])) if rows else None


_of_id: Final = PreparedValues(
    lambda: (
        ListenerPrompt.objects.filter(owner=Parameter("owner"), prompt_id=Parameter("prompt_id"))
        .order_by()
        .values_list(*RECORD.values())
    )
)
_graphs: Final = PreparedValues(
    lambda: ListenerPrompt.objects.filter(pk=KEY).order_by().values_list("group__workflow_json")
)


def graph_of(prompt: int) -> str:
    """Return the workflow of a prompt, by the key of its row."""
    rows = _graphs(prompt)
    return rows[0][0] if rows else "{}"


def group_of_prompt(owner: str, prompt_id: str) -> str | None:
    """Return the id of the group of an owner's prompt, by its id or ``newest``; None: there is
    none.
    """
    rows = ListenerPrompt.objects.filter(owner=owner).order_by("-id")
    if prompt_id != "newest":
        rows = rows.filter(prompt_id=prompt_id) if is_prompt_id(prompt_id) else rows.none()
    return rows.values_list("group_id", flat=True).first()


def queue_records(owner: str) -> tuple[list[PromptRecord], list[PromptRecord]]:
    """Return the running prompts of an owner, and those that wait; all as of one moment."""
    records = _records(open_prompts(owner))
    running = [record for record in records if record.status is ChildStatus.RUNNING]
    waiting = [record for record in records if record.status is not ChildStatus.RUNNING]
    running.sort(key=lambda record: (record.started_at is None, record.started_at))
    waiting.sort(key=lambda record: record.number)
    return running, waiting


def history_records(
    owner: str, *, limit: int = MAX_LISTED, offset: int | None = None
) -> list[PromptRecord]:
    """Return entries of an owner's history, in the order in which the prompts were sent.

    Args:
        limit: at most so many, and at most ``MAX_LISTED``.
        offset: of the first entry, from the oldest one; None: the newest entries.
    """
    limit, rows = min(limit, MAX_LISTED), history_prompts(owner)
    if offset is not None:
        return _records(rows[offset : offset + limit])
    return _records(rows.order_by("-id")[:limit])[::-1]


def _records(rows: "QuerySet[ListenerPrompt]") -> list[PromptRecord]:
    """Return the records of prompts in the order of the rows.

    The workflows are read afterwards, which never change: those of a list may be large.
    """
    size = Length("group__workflow_json")
    read = list(rows.annotate(size=size).values_list(*RECORD.values(), "size"))
    sum_bytes, whole = 0, list[int]()
    for pk, *_, graph_size in read:
        sum_bytes += graph_size
        if not whole or sum_bytes <= _MAX_GRAPHS:
            whole.append(pk)
    graphs = dict[int, str]()
    for first in range(0, len(whole), _AT_ONCE):
        some = ListenerPrompt.objects.filter(pk__in=whole[first : first + _AT_ONCE])
        graphs.update(some.values_list("pk", "group__workflow_json").order_by())
    return [prompt_record(values, graphs.get(values[0], "{}")) for values in read]


def prompt_record(values: Sequence[Any], graph: str) -> PromptRecord:
    """Return the record of a prompt by its columns, which begin with ``RECORD``, and its workflow."""
    columns: Mapping[str, Any] = dict(zip(RECORD, values, strict=False))
    sent = json.loads(columns["fields"] or "{}").get("extra_data", {})
    client_id = columns["client_id"]
    hidden_at, ended_at = columns["hidden_at"], columns["group_ended_at"]
    extra_data = {
        **sent,
        **({"client_id": client_id} if client_id else {}),
        "create_time": milliseconds(columns["created_at"]),
    }
    return PromptRecord(
        prompt_id=columns["prompt_id"],
        job_id=columns["job_id"],
        number=_number(columns["pk"], columns["number"]),
        graph=graph.encode(),
        extra_data=extra_data,
        targets=json.loads(columns["targets"]),
        status=ChildStatus(columns["status"]),
        started_at=columns["started_at"],
        ended_at=columns["ended_at"],
        cached=json.loads(columns["execution"] or "{}").get("cached_nodes") or (),
        node_outputs=json.loads(columns["node_outputs"] or "{}"),
        error=columns["error"] or "",
        error_type=columns["error_type"] or "",
        error_details=json.loads(columns["error_details"] or "{}"),
        is_hidden=bool(hidden_at and ended_at and hidden_at >= ended_at),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """What ``/api/jobs`` lists.

    Attributes:
        statuses: ComfyUI's; empty: all.
        workflow_id: of the editor's workflow; empty: any.
        by_duration: sorted by the time from start to end instead of the creation.
        is_ascending: the lowest first.
    """

    statuses: Collection[str] = ()
    workflow_id: str = ""
    by_duration: bool = False
    is_ascending: bool = False


def job_records(
    owner: str, wanted: JobFilter, *, limit: int, offset: int
) -> tuple[list[PromptRecord], int]:
    """Return a page of an owner's prompts, and how many there are, at most ``_MAX_COUNTED``."""
    children = {
        child
        for child, status in JOB_STATUS.items()
        if not wanted.statuses or status in wanted.statuses
    }
    rows = ListenerPrompt.objects.filter(~_ENDED | _SHOWN, owner=owner)
    if children <= CHILD_OPEN:
        rows = open_prompts(owner)
    rows = rows.filter(**{f"{CHILD}status__in": children})
    if wanted.workflow_id:
        rows = rows.filter(pk__in=_of_workflow(rows, wanted.workflow_id))
    order = ["id"]
    if wanted.by_duration:
        seconds = F(f"{CHILD}completed_at") - F(f"{CHILD}started_at")
        rows = rows.annotate(seconds=Coalesce(seconds, dt.timedelta(0)))
        order = ["seconds", "id"]
    rows = rows.order_by(*order if wanted.is_ascending else [f"-{name}" for name in order])
    return _records(rows[offset : offset + limit]), rows.order_by()[:_MAX_COUNTED].count()


def _of_workflow(rows: "QuerySet[ListenerPrompt]", wanted: str) -> list[int]:
    """Return the prompts with a workflow of the editor; no column has its id."""
    named = rows.filter(group__prompt_fields_json__contains=to_json(wanted))
    return [
        pk
        for pk, fields in named.values_list("pk", "group__prompt_fields_json")
        if workflow_id(json.loads(fields or "{}").get("extra_data", {})) == wanted
    ]
