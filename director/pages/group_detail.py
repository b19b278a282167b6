"""Read model of a group's page: its head, and a card for each child."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from django.db.models import Count, Q

from backends.models import Backend, Reachability
from backends.queries import backends_by_id
from director.pages import group_list, text as words
from director.pages.grid import grid_of, number
from director.pages.outputs import outputs_of, texts_of
from jobgroups.domain import text
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import reported_files
from jobgroups.domain.states import CHILD_FINAL, CHILD_RETRIED_IN_RUN, ChildStatus, Placement
from jobgroups.domain.waiting_reasons import held_reason, left_running
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries import groups
from jobgroups.queries.pauses import group_pause_now
from jobgroups.queries.pool import pool_candidates
from jobgroups.queries.retention import deletion_text

PAGE_SIZE: Final = 120  #: Cards on one page of a group.
#: The jobs that ``?show=`` chooses.
_SHOWN: Final = {
    "starred": Q(starred=True),
    "failed": Q(status__in=(ChildStatus.FAILED, ChildStatus.TIMEOUT)),
    "running": Q(status=ChildStatus.RUNNING),
}
#: Backends in the line of completed jobs; those with fewer jobs are counted together.
_MAX_MADE: Final = 3
#: Details of an error that its card shows elsewhere.
_SHOWN_ELSEWHERE: Final = ("node_id", "node_type", "node_title", "exception_type", "phase")
#: Of a group, for one of its cards.
_CARD_FIELDS: Final = ("run", "completed_at", "placement", "retry_elsewhere")
_ATTEMPT_FIELDS: Final = (
    *("child_id", "number", "run", "backend_id", "state", "error_message", "failure_class"),
    *("stop_requested_at", "ended_at"),
)


def group_page(
    group_id: str, query: Mapping[str, str], *, with_cards: bool = True
) -> dict[str, Any]:
    """Return a group's page. Its cost does not depend on the number of jobs on other pages.

    ``query`` has ``page`` (from 1) or ``job``, the id of a job to show; ``show`` leaves out other
    jobs. For the grid of a sweep it has also the indexes of its selectors; ``view=jobs`` and
    ``show`` choose cards in the place of the grid. ``with_cards`` is false for the head alone,
    which is reloaded with every event. Raises ``GroupNotFound``.
    """
    # Read the row first: later reads may be newer than its seq, and the stream repeats these
    # events.
    row = group_list.group_row(group_id)
    group: JobGroup = row["group"]
    position = _position_of(group_id, str(query.get("job", "")).replace("\0", ""))
    sweep = json.loads(group.sweep_json or "null")
    show = query.get("show", "") if query.get("show") in _SHOWN else ""
    rows = ChildJob.objects.filter(group_id=group_id)
    if show and position is not None and not rows.filter(_SHOWN[show], position=position).exists():
        show = ""
    table, is_cards = grid_of(sweep, query, position), bool(show) or query.get("view") == "jobs"
    view = f"show={show}&" if show else "view=jobs&" if table else ""
    context: dict[str, Any] = {
        "has_grid": table is not None,
        "grid": None,
        "view": view,
        "show": show,
    }
    if table and not is_cards:
        page, pages, positions = table.page, table.pages, table.positions
        context |= {"grid": table, "view": table.query}
    else:
        matching: Sequence[int] = range(group.total_count)
        if show:
            matching = list(
                rows.filter(_SHOWN[show]).order_by("position").values_list("position", flat=True)
            )
        pages = max(-(-len(matching) // PAGE_SIZE), 1)
        page = (
            matching.index(position) // PAGE_SIZE + 1
            if position in matching
            else number(query, "page")
        )
        page = min(max(page, 1), pages)
        positions = list(matching[(page - 1) * PAGE_SIZE : page * PAGE_SIZE])
    head = (
        groups.group_page(group_id, positions=positions)
        if with_cards
        else groups.group_head(group_id)
    )
    in_pool = head["placement"] == Placement.POOL
    summary = _summary(group, sweep)
    pause = group_pause_now(group)
    cards = {card["position"] - 1: card for card in _cards(group, head.get("child_jobs", ()))}
    open_ones = Attempt.objects.filter(child__group_id=group_id, ended_at__isnull=True)
    away = Backend.objects.filter(
        reachability=Reachability.OFFLINE, pk__in=open_ones.values("backend_id")
    )
    candidates = pool_candidates(group_id) if in_pool else []
    named = {entry["backend_id"] for entry in head["skipped_backends"]}.union(candidates)
    names = {row.id: row.name for row in backends_by_id(named).values()}
    skipped = Counter(
        (skipped_backend["backend_id"], skipped_backend["reason"])
        for skipped_backend in head["skipped_backends"]
    )
    return {
        "row": row,
        "head": head,
        **context,
        "cards": list(cards.values()),
        # Of the grid: short text and text of a row, and a card or None for each column.
        "lines": [
            (*value, [cards.get(cell) for cell in line])
            for *value, line in (table.lines if table else ())
        ],
        "page": page,
        "pages": pages,
        # Links to parts of the jobs: value of ``show``, label and number of jobs.
        "shows": [
            ("", "All", group.total_count),
            ("starred", "Starred", rows.filter(starred=True).count()),
            ("failed", "Failed", row["failed"]),
            ("running", "Running", row["running"]),
        ],
        "summary": summary,
        "summary_line": _summary_line(summary),
        "metadata": [
            (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for key, value in head["metadata"].items()
        ],
        # Backends that could take no jobs at the submission, and how often each was named.
        "skipped": [
            {"name": names.get(key, key), "reason": why, "count": count}
            for (key, why), count in skipped.items()
        ],
        "skipped_text": _skipped_text(skipped, in_pool=in_pool),
        # Backends that may take a job of the pool, and its completed jobs by backend.
        "candidates": words.candidates_text([names.get(key, key) for key in candidates])
        if in_pool
        else "",
        "made": _made_text(group_id) if in_pool else "",
        "on_failure": words.policy_text(
            head["max_attempts"],
            head["retry_elsewhere"],
            head["retry_on"],
            is_paid=bool(group.uses_partner_nodes),
        ),
        "partial_outputs": words.PARTIAL_OUTPUTS[head["partial_outputs"]],
        "stop_when": text.stop_condition(head["stop_when"]),
        # Why nothing of it is sent, and whether that is its own pause.
        "held": held_reason(pause, group.start_after, now=now()) if not row["ended"] else "",
        "is_paused": pause is not None and pause.of == "group",
        "deletion": deletion_text(group),
        # Whether any child has a file that can be downloaded, and the number of starred children
        # with such files.
        "has_files": any(_with_files(group_id)),
        "starred": sum(_with_files(group_id, starred=True)),
        # While a backend with jobs of the group is offline, the end of the group is not known.
        "offline": ", ".join(row.name or row.id for row in away.order_by("id")),
    }


def _summary(group: JobGroup, sweep: Any) -> dict[str, Any]:
    """Return the summary of a group's workflow; inputs that its sweep varies have no value."""
    values = words.summary_values(json.loads(group.summary_json))
    varied = {axis["input"].rsplit(".", 1)[-1] for axis in (sweep or {"axes": ()})["axes"]}
    if varied & {"ckpt_name", "unet_name"}:
        varied.add("model")
    return values | dict.fromkeys(values.keys() & varied, "varied")


def _summary_line(summary: Mapping[str, Any]) -> str:
    """Return prompt and settings in one line."""
    parts = [
        str(summary.get("prompt") or "")[:200],
        summary.get("model"),
        f"{summary['width']} × {summary['height']}" if summary.get("width") else "",
        f"{summary['steps']} steps" if summary.get("steps") else "",
        f"CFG {summary['cfg']}" if summary.get("cfg") else "",
        summary.get("sampler_name"),
    ]
    return " · ".join(str(part) for part in parts if part)


def _skipped_text(skipped: Mapping[tuple[str, str], int], *, in_pool: bool) -> str:
    """Return the number of backends that were left out, and of missing jobs; of the pool no job is
    missing.
    """
    if in_pool:
        return f"{text.pluralize(len(skipped), 'backend')} could take no jobs at the submission"
    summary_text = text.pluralize(len(skipped), "backend left out", "backends left out")
    return f"{summary_text}: {text.pluralize(sum(skipped.values()), 'job fewer', 'jobs fewer')}"


def _position_of(group_id: str, job_id: str) -> int | None:
    rows = (
        ChildJob.objects.filter(pk=job_id, group_id=group_id) if job_id else ChildJob.objects.none()
    )
    return rows.values_list("position", flat=True).first()


def _with_files(group_id: str, **which: bool) -> Iterator[bool]:
    """Return whether each child with outputs has a file that can be downloaded."""
    rows = ChildJob.objects.filter(group_id=group_id, outputs_json__isnull=False, **which)
    for outputs in rows.order_by().values_list("outputs_json", flat=True).iterator():
        yield any(
            not file.get("missing") for file in reported_files(json.loads(outputs or "{}") or {})
        )


def child_card(group_id: str, job_id: str) -> dict[str, Any]:
    """Return one child's card, or raise ``GroupNotFound`` or ``ChildNotFound``."""
    group = JobGroup.objects.filter(pk=group_id).only(*_CARD_FIELDS).first()
    if group is None:
        raise GroupNotFound(group_id)
    cards = _cards(group, [groups.child_detail(group_id, job_id)])
    if not cards:
        raise ChildNotFound(job_id)
    return cards[0]


def _made_text(group_id: str) -> str:
    """Return the number of completed jobs of each backend, most jobs first: ``8 × gpu-1, 4 × gpu-2 and
    3 others``.
    """
    rows = ChildJob.objects.filter(group_id=group_id, status=ChildStatus.COMPLETED)
    counts = rows.order_by().values_list("backend_id").annotate(Count("id"))
    counted = [(backend_id or "", count) for backend_id, count in counts]
    counted.sort(key=lambda class_count: (-class_count[1], class_count[0]))
    known = backends_by_id(backend_id for backend_id, _ in counted)
    sentences = [
        f"{count} × {_name(known.get(backend_id)) or backend_id}"
        for backend_id, count in counted[:_MAX_MADE]
    ]
    others = len(counted) - _MAX_MADE
    return ", ".join(sentences) + (f" and {text.pluralize(others, 'other')}" if others > 0 else "")


def _cards(group: JobGroup, children: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a card for each child that was not deleted meanwhile."""
    ids = [child["job_id"] for child in children]
    needed = ("position", "started_at", "completed_at", "current_attempt__execution_seconds")
    stored = ChildJob.objects.select_related("current_attempt").only(*needed).in_bulk(ids)
    rows = list(
        Attempt.objects.filter(child_id__in=ids)
        .order_by("child_id", "number")
        .only(*_ATTEMPT_FIELDS)
    )
    known = backends_by_id(
        {child["backend_id"] or "" for child in children} | {row.backend_id for row in rows}
    )
    tries = _attempt_rows(rows, known)
    done_on = group_list.attempts_needed(
        child["job_id"]
        for child in children
        if child["status"] == ChildStatus.COMPLETED and len(tries[child["job_id"]]) > 1
    )
    return [
        {
            "position": stored[child["job_id"]].position + 1,
            "seconds": stored[child["job_id"]].seconds,
            "attempts_text": _attempts_text(
                child, tries[child["job_id"]], done_on.get(child["job_id"], 1)
            ),
            **_card(group, child, known.get(child["backend_id"] or ""), tries[child["job_id"]]),
        }
        for child in children
        if child["job_id"] in stored
    ]


def _card(
    group: JobGroup,
    child: Mapping[str, Any],
    backend: Backend | None,
    attempts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    status, outputs = child["status"], outputs_of(group.id, child)
    details = child["error_details"] if isinstance(child["error_details"], Mapping) else {}
    is_queued, eta = status == ChildStatus.QUEUED, child["eta_seconds"]
    name = _name(backend) or child["backend_id"] or ("any backend" if is_queued else "no backend")
    ends = f"Done in about {text.duration(eta)}." if is_queued and eta is not None else ""
    # At an offline backend its progress is unknown.
    is_stale = (
        status == ChildStatus.RUNNING
        and backend is not None
        and backend.reachability == Reachability.OFFLINE
    )
    away = (
        f"{child['waiting_reason'] or f'{name} does not answer.'} Last progress: "
        f"{child['progress']:.0f} %."
    )
    notes: list[str] = [words.unbroken(away)] if is_stale else []
    # Why a prompt with a pending stop still runs.
    notes += [attempt["left_running"] for attempt in attempts if attempt["left_running"]]
    notes += child["warnings"]
    notes += [output["capture_warning"] for output in outputs if output["capture_warning"]]
    notes += [words.replaced_text(output, name) for output in outputs if output["replaced"]]
    retried = (
        (CHILD_FINAL - {ChildStatus.COMPLETED}) if group.completed_at else CHILD_RETRIED_IN_RUN
    )
    variation = words.variation_text(child["variation"])
    return {
        "group": group,
        "id": child["job_id"],
        "child": child,
        # Of each of its files, before the name.
        "title": " · ".join(filter(None, [variation, str(child["seed"]), name])),
        "status": status,
        "label": words.child_label(status, child["stopped_by"]),
        # How it differs from the other jobs.
        "difference": " · ".join(filter(None, [variation, f"seed {child['seed']}"])),
        # Empty while it waits in the pool.
        "backend_id": child["backend_id"] or "",
        "backend_name": name,
        "is_stale": is_stale,
        # The waiting reason, and the expected end of a queued child.
        "waits": words.unbroken(f"{child['waiting_reason'] or ''} {ends}".strip()),
        # Whether it can be cancelled, and retried in this group.
        "open": status not in CHILD_FINAL,
        "to_retry": status in retried,
        "error_node": _error_node(details),
        "traceback": _traceback(details),
        "attempts": attempts,
        "shows_attempts": len(attempts) > 1
        or any(attempt["attempt"].failure_class for attempt in attempts),
        "spans_runs": len({attempt["attempt"].run for attempt in attempts}) > 1,
        # A prompt is being stopped: the card changes without an event.
        "is_stopping": any(attempt["attempt"].is_stopping for attempt in attempts),
        "notes": notes,
        "texts": texts_of(child["outputs"]),
        # Images, videos, sounds and text files, including replaced ones with a thumbnail; others;
        # what can be downloaded.
        "shown": [output for output in outputs if output["is_shown"]],
        "files": [
            output for output in outputs if output["kind"] == "other" and not output["missing"]
        ],
        "downloads": [
            output
            for output in outputs
            if not output["replaced"] and (output["is_shown"] or not output["missing"])
        ],
    }


def _error_node(details: Mapping[str, Any]) -> str:
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
    rest = {key: detail for key, detail in details.items() if key not in _SHOWN_ELSEWHERE}
    return json.dumps(rest, indent=2, ensure_ascii=False) if rest else ""


def _attempts_text(
    child: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]], completed_on: int
) -> str:
    """Return the attempt that completed a child, failed attempts counted, else the number of
    attempts.
    """
    if completed_on > 1:
        return f"Completed {text.on_attempt(completed_on)}"
    failed = [
        attempt["attempt"].failure_class for attempt in attempts if attempt["attempt"].failure_class
    ]
    if child["status"] not in CHILD_FINAL and failed:
        label = text.failure_label(failed[-1])
        last = f"the last: {label}" if len(failed) > 1 else label
        return f"{text.pluralize(len(failed), 'failed attempt')}, {last}"
    return text.pluralize(len(attempts), "attempt")


def _name(backend: Backend | None) -> str:
    """Return a backend's name or id; empty if it was deleted."""
    return backend.name or backend.id if backend else ""


def _attempt_rows(
    rows: Iterable[Attempt], known: Mapping[str, Backend]
) -> dict[str, list[dict[str, Any]]]:
    rows_by_child: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        backend = known.get(row.backend_id)
        # Why the prompt still runs although a stop is pending.
        why = left_running(
            row.state, backend.status_reason if backend else "", stopping=row.is_stopping
        )
        of_row = {
            "attempt": row,
            "backend_name": _name(backend) or row.backend_id,
            "left_running": why,
        }
        rows_by_child[row.child_id].append(of_row)
    return rows_by_child
