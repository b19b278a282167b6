"""Which of the backends that a submission names get a child, and why the others do not.

Those not heard from lately are asked at once, side by side and briefly, so that an answer comes
within two seconds whatever they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asgiref.sync import async_to_sync

from backends import queries, services
from backends.capabilities import Known, lacking
from backends.comfyui.errors import BackendError
from backends.comfyui.probe import BackendReport, probe
from backends.models import Backend, Reachability
from backends.queries import backend_facts
from backends.states import TAKES_CHILDREN, BackendState, Standing, backend_state
from jobgroups.domain.clock import now

#: A backend heard from within this time is taken at its word.
FRESH: Final = dt.timedelta(seconds=10)
#: Seconds that one backend has for its answer, and all of them together.
ASK_SECONDS: Final = 1.5
_ALL_SECONDS: Final = 1.7


@dataclass(frozen=True, slots=True)
class Choice:
    """Who gets a child, one an entry of the request in its order, and who does not."""

    backend_ids: list[str]
    #: ``{"backend_id", "reason"}`` for each entry that was left out.
    skipped: list[dict[str, str]]


def choose(backend_ids: Sequence[str], required_capabilities: Sequence[str]) -> Choice:
    """Choose among the named backends, after asking those of which nothing fresh is known."""
    named = queries.backends_by_id(backend_ids)
    doubtful = [row for row in named.values() if row.enabled and is_doubtful(row)]
    if doubtful:
        ask(doubtful)
        named = queries.backends_by_id(backend_ids)
    reasons = {one: _unfit(named.get(one), required_capabilities) for one in set(backend_ids)}
    return Choice(
        [one for one in backend_ids if reasons[one] is None],
        [{"backend_id": one, "reason": reason} for one in backend_ids if (reason := reasons[one])],
    )


def is_doubtful(row: Backend) -> bool:
    """Whether to ask it: not heard from for 10 s, or not since it fell silent.

    One that answers and is unfit all the same (its worker is dead) was judged by the runner, who
    knows better than a single answer.
    """
    if row.last_seen_at is None or row.last_seen_at < now() - FRESH:
        return True
    return row.unreachable_since is not None and row.last_seen_at < row.unreachable_since


def _unfit(row: Backend | None, required: Sequence[str]) -> str | None:
    """Return why a backend gets no child, None if it gets one."""
    if row is None:
        return "Unknown: no backend has this id."
    standing = backend_state(backend_facts(row, now=now()))
    if standing.state not in TAKES_CHILDREN or row.reachability != Reachability.ONLINE:
        return _said(row, standing)
    known = Known(tags=row.tags, devices=row.devices, comfyui_version=row.comfyui_version)
    missing = lacking(known, required)
    return f"Lacks {', '.join(missing)}." if missing else None


def _said(row: Backend, standing: Standing) -> str:
    """Return why a backend takes no children now, as a sentence."""
    by = f" by {standing.by}" if standing.by else ""
    why = f": {standing.reason}" if standing.reason else ""
    match standing.state:
        case BackendState.DISABLED:
            return f"Disabled{by}{why}" if by or why else "Disabled."
        case BackendState.QUARANTINED:
            return f"Quarantined{by}{why}"
        case BackendState.DRAINING:
            return f"Being drained{by}{why}" if by or why else "Being drained."
        case _:
            return f"Offline: {row.status_reason or 'it has not answered yet'}"


# --- asking ---------------------------------------------------------------------------------------


def ask(rows: Collection[Backend]) -> None:
    """Ask each backend whether it is there, side by side, and store what it says."""
    answers = async_to_sync(_ask_all)(rows)
    for row in rows:
        services.backend_observed(backend_id=row.id, **_observation(answers.get(row.id)))


async def _ask_all(rows: Collection[Backend]) -> dict[str, BackendReport | str]:
    """Return each backend's report, or the sentence that says what is wrong with it."""
    answers: dict[str, BackendReport | str] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ALL_SECONDS), asyncio.TaskGroup() as tasks:
            for row in rows:
                tasks.create_task(_ask(row, answers), name=f"ask {row.id}")
    return answers


async def _ask(row: Backend, answers: dict[str, BackendReport | str]) -> None:
    try:
        answers[row.id] = await probe(row.url, headers=row.headers, timeout=ASK_SECONDS)
    except BackendError as error:
        answers[row.id] = error.detail
    except ValueError as error:
        answers[row.id] = str(error)


def _observation(answer: BackendReport | str | None) -> Mapping[str, Any]:
    if not isinstance(answer, BackendReport):
        return {"reachable": False, "reason": answer or f"No answer within {ASK_SECONDS} s."}
    devices = [
        {"name": one.name, "vram_total": one.vram_total, "vram_free": one.vram_free}
        for one in answer.devices
    ]
    return {"reachable": True, "version": answer.version or "", "devices": devices}
