"""Read model of the queue: what runs and what is next."""

from collections import Counter
from typing import Any

from django.http import QueryDict

from director.pages.filters import PAGE_SIZE, address, texts
from jobgroups.domain.access import Principal, Right, may
from jobgroups.domain.clock import now
from jobgroups.domain.pauses import FARM
from jobgroups.domain.shapes.groups import QueueRow
from jobgroups.domain.text import duration
from jobgroups.domain.waiting_reasons import held_reason
from jobgroups.models import JobGroup
from jobgroups.queries.owners import owned_by
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.queue import QueueFilter, queue_page

_MAX_DIGITS = 9


def queue_list(principal: Principal, query: QueryDict) -> dict[str, Any]:
    """Return a page of the queue by the query of its URL; invalid values are ignored."""
    chosen = texts(query, "submitter", "backend", "mine", "offset")
    filters = QueueFilter(
        principal=principal,
        submitter=chosen["submitter"],
        backend=chosen["backend"],
        mine=bool(chosen["mine"]) and principal.user_id is not None,
    )
    digits = chosen["offset"][:_MAX_DIGITS]
    offset = int(digits) if digits.isdecimal() else 0
    page = queue_page(filters, offset=offset, limit=PAGE_SIZE)
    pauses = current_pauses().by_target
    rows = [_row(row, page.groups.get(row.job_group_id or ""), principal) for row in page.rows]
    turns = Counter(row["turn"] for row in rows)
    for row in rows:
        row["is_movable"] = turns[row["turn"]] > 1 and row["turn"]
        row["is_paused"] = row["row"].job_group_id in pauses
    rest = [row for row in rows if row["row"].place is None]

    def at(start: int) -> str:
        return address({**chosen, "offset": start})

    return {
        "running": [row for row in rest if row["row"].running != 0],
        "waiting": [row for row in rows if row["row"].place],
        # Paused, or to be started later.
        "held": [row for row in rest if row["row"].running == 0],
        "paused": held_reason(pauses.get(FARM), None, now=now()) or "",
        "chosen": chosen,
        "query": at(offset),
        "before": at(max(offset - PAGE_SIZE, 0)) if offset else None,
        "after": at(offset + PAGE_SIZE) if page.has_more else None,
    }


def _row(row: QueueRow, group: JobGroup | None, principal: Principal) -> dict[str, Any]:
    start = row.expected_start
    left = None if start is None else (start - now()).total_seconds()
    answer: dict[str, Any] = {
        "row": row,
        "start": "" if left is None else f"in about {duration(left)}" if left > 1 else "now",
        "reason": (row.waiting_reason or "")
        .removeprefix(f"Place {row.place}: ")
        .removeprefix("next."),
        "turn": "",
    }
    if group is None:
        return answer
    may_change = may(principal, Right.OPERATE, owned_by(group.owner_id, group.shared_at))
    # Groups with one value follow each other as their submitter orders them.
    turn = f"{row.level} {group.front_at or ''} {row.submitter}" if row.place and may_change else ""
    return {**answer, "group": group, "may_change": may_change, "turn": turn}
