"""A group's page: its head, and a card for each child. Reads rows, writes nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.models import Backend
from backends.selectors import backends_by_id
from director.pages import board, words
from director.pages.pictures import Output, outputs_of
from jobgroups import selectors
from jobgroups.errors import ChildNotFound
from jobgroups.models import Attempt, ChildJob
from jobgroups.states import ATTEMPT_ENDED, CHILD_FINAL

#: Cards on one page of a group.
PAGE: Final = 120
#: Details of an error that its card says anyway.
_SAID_IN_WORDS: Final = ("node_id", "node_type", "node_title", "exception_type", "phase")


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt, in words."""

    number: int
    backend_id: str
    words: str
    reason: str


@dataclass(frozen=True, slots=True)
class Card:
    """One child as people see it."""

    group_id: str
    job_id: str
    position: int
    status: str
    word: str
    seed: int
    backend_id: str
    backend_name: str
    progress: float
    step: str
    waiting: str
    error: str
    error_type: str
    error_node: str
    traceback: str
    warnings: list[str]
    outputs: list[Output]
    tries: list[Try]
    took: str
    starred: bool

    @property
    def open(self) -> bool:
        """Whether it can be cancelled."""
        return self.status not in CHILD_FINAL

    @property
    def pictures(self) -> list[Output]:
        """What can be looked at."""
        return [one for one in self.outputs if one.is_picture and not one.missing]

    @property
    def files(self) -> list[Output]:
        """What can only be fetched."""
        return [one for one in self.outputs if not one.is_picture and not one.missing]


@dataclass(frozen=True, slots=True)
class GroupPage:
    """All that a group's page shows."""

    row: board.Row
    cards: list[Card]
    metadata: list[tuple[str, str]]
    warnings: list[str]
    skipped: list[dict[str, str]]
    page: int
    pages: int
    strategy: str
    base_seed: int
    timeout_seconds: int

    #: How many children of the group are to be kept.
    starred: int

    @property
    def first_failed(self) -> str:
        """Id of the first child on this page that failed or timed out."""
        return next((one.job_id for one in self.cards if one.status in ("failed", "timeout")), "")


def group_page(group_id: str, page: int = 1) -> GroupPage:
    """Return a group's page.

    Raises:
        GroupNotFound: there is no such group.
    """
    # The row first: what is read after it may show more than its seq says, which the stream tells
    # again, and never less.
    row = board.one_row(group_id)
    snapshot = selectors.group_snapshot(group_id)
    children: list[dict[str, Any]] = snapshot["child_jobs"]
    pages = max(-(-len(children) // PAGE), 1)
    page = min(max(page, 1), pages)
    shown = list(enumerate(children))[(page - 1) * PAGE : page * PAGE]
    return GroupPage(
        row=row,
        cards=_cards(group_id, shown),
        metadata=_metadata(snapshot["metadata"]),
        warnings=[str(one) for one in snapshot["warnings"]],
        skipped=snapshot["skipped_backends"],
        page=page,
        pages=pages,
        strategy=snapshot["seed_strategy"],
        base_seed=snapshot["base_seed"],
        timeout_seconds=snapshot["timeout_seconds"],
        starred=sum(bool(child["starred"]) for child in children),
    )


def one_card(group_id: str, job_id: str) -> Card:
    """Return one child's card.

    Raises:
        GroupNotFound, ChildNotFound: there is no such group, or no such child in it.
    """
    detail = selectors.child_detail(group_id, job_id)
    position = ChildJob.objects.filter(pk=job_id).values_list("position", flat=True).first()
    if position is None:
        raise ChildNotFound(job_id)
    return _cards(group_id, [(position, detail)])[0]


def _metadata(metadata: Any) -> list[tuple[str, str]]:
    if not isinstance(metadata, Mapping):
        return []
    return [
        (str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in metadata.items()
    ]


def _cards(group_id: str, children: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Card]:
    tries = _tries([child["job_id"] for _, child in children])
    known = backends_by_id(child["backend_id"] for _, child in children)
    return [
        _card(group_id, position, child, tries[child["job_id"]], known.get(child["backend_id"]))
        for position, child in children
    ]


def _tries(job_ids: Sequence[str]) -> dict[str, list[Try]]:
    rows = Attempt.objects.filter(child_id__in=job_ids).order_by("child_id", "number")
    found: dict[str, list[Try]] = defaultdict(list)
    for job_id, number, backend_id, state, message, stopping in rows.values_list(
        "child_id", "number", "backend_id", "state", "error_message", "stop_requested_at"
    ):
        said = words.ATTEMPT_WORDS.get(state, state)
        if stopping is not None and state not in ATTEMPT_ENDED:
            said = "is being stopped"
        found[job_id].append(Try(number, backend_id, said, message or ""))
    return found


def _card(
    group_id: str,
    position: int,
    child: Mapping[str, Any],
    tries: list[Try],
    backend: Backend | None,
) -> Card:
    details = child["error_details"] if isinstance(child["error_details"], Mapping) else {}
    return Card(
        group_id=group_id,
        job_id=child["job_id"],
        position=position + 1,
        status=child["status"],
        word=words.CHILD_WORDS.get(child["status"], child["status"]),
        seed=child["seed"],
        backend_id=child["backend_id"],
        # The id outlives its backend, the name does not.
        backend_name=child["backend_id"] if backend is None else backend.name or backend.id,
        progress=child["progress"],
        step=child["current_step"] or "",
        waiting=child["waiting_reason"] or "",
        error=child["error_message"] or "",
        error_type=child["error_type"] or "",
        error_node=_node(details),
        traceback=_traceback(details),
        warnings=[str(one) for one in child["warnings"] or []],
        outputs=outputs_of(group_id, child["job_id"], child["outputs"]),
        tries=tries,
        took=_took(child),
        starred=child["starred"],
    )


def _node(details: Mapping[str, Any]) -> str:
    node, kind = details.get("node_id"), details.get("node_type")
    if node is None and kind is None:
        return ""
    return f"{kind or 'node'} ({node})" if node is not None else str(kind)


def _traceback(details: Mapping[str, Any]) -> str:
    lines = details.get("traceback")
    if isinstance(lines, list):
        return "".join(str(line) for line in lines)
    if isinstance(lines, str):
        return lines
    rest = {key: value for key, value in details.items() if key not in _SAID_IN_WORDS}
    return json.dumps(rest, indent=2, ensure_ascii=False) if rest else ""


def _took(child: Mapping[str, Any]) -> str:
    started, ended = child["started_at"], child["completed_at"]
    if started is None or ended is None:
        return ""
    from_, to = (words.moment(one) for one in (started, ended))
    return words.duration((to - from_).total_seconds())
