"""Reads what one page of a contact sheet shows."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backends.errors import FieldInvalid
from jobgroups.domain import text
from jobgroups.domain.sheet import Page, axes_of, pages
from jobgroups.domain.states import ChildStatus
from jobgroups.errors import GroupNotFound
from jobgroups.models import ChildJob, JobGroup
from jobgroups.queries.outputs import OutputFile, first_pictures


class SheetJob(NamedTuple):
    status: str  #: What its cell shows without a picture.
    is_failed: bool
    caption: str  #: Number, seed and inputs; empty in a grid, whose labels show them.
    file: OutputFile | None = None  #: Its picture.


class Sheet(NamedTuple):
    title: str
    facts: str
    page: Page
    page_count: int
    jobs: Mapping[int, SheetJob]


def group_sheet(group_id: str, *, axes: Sequence[str], number: int) -> Sheet:
    """Return a page of a group's sheet, from 1. ``axes``: inputs for columns, rows and blocks, see
    ``axes_of``.

    Raises ``GroupNotFound``, or ``InvalidRequest`` if the group has no such axis or page.
    """
    group = JobGroup.objects.filter(pk=group_id).first()
    if group is None:
        raise GroupNotFound(group_id)
    order = axes_of(json.loads(group.sweep_json or "null"), axes)
    sheet_pages = pages(group.total_count, order)
    if number > len(sheet_pages):
        raise FieldInvalid("page", f"The sheet has {text.pluralize(len(sheet_pages), 'page')}.")
    page = sheet_pages[number - 1]
    jobs = {
        child.position: SheetJob(*_state(child), "" if order else _caption(child), file)
        for child, file in first_pictures(group_id, list(page.cells))
    }
    stopped = group.children.exclude(stopped_by="").count() if group.stopped_at else 0
    cancelled = group.cancelled_count - stopped
    named = zip(
        ("completed", "failed", "cancelled", "not needed"),
        (group.completed_count, group.failed_count, cancelled, stopped),
        strict=True,
    )
    counts = [
        text.pluralize(group.total_count, "job"),
        *(f"{many} {name}" for name, many in named if many),
    ]
    facts = [
        group_id,
        f"{group.created_at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC",
        ", ".join(counts),
    ]
    facts += [
        f"{name}: {axis.input}" for name, axis in zip(("columns", "rows"), order, strict=False)
    ]
    facts += [f"page {number} of {len(sheet_pages)}"] if len(sheet_pages) > 1 else []
    return Sheet(group.title, " · ".join(facts), page, len(sheet_pages), jobs)


def _state(child: ChildJob) -> tuple[str, bool]:
    if child.status in (ChildStatus.FAILED, ChildStatus.TIMEOUT):
        return f"failed: {text.failure_label(child.failure_class or child.status)}", True
    status_texts = {
        ChildStatus.COMPLETED: "no picture",
        ChildStatus.RUNNING: f"running, {child.progress:.0f} %",
        ChildStatus.CANCELLED: "not needed" if child.stopped_by else "cancelled",
    }
    return status_texts.get(ChildStatus(child.status), child.status), False


def _caption(child: ChildJob) -> str:
    variation = json.loads(child.variation_json or "{}")
    labels = text.input_labels(variation)
    inputs = [f"{labels[name]} {text.value_text(value)}" for name, value in variation.items()]
    return " · ".join([f"{child.position + 1}", f"seed {child.seed}", *inputs])
