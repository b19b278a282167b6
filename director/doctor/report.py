"""All checks of ``director doctor``, in order; those of each backend: response, version, previews,
clock.
"""

import asyncio
import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from backends.comfyui.answers import PREVIEW_OPTION, SystemStats
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Timeouts
from backends.comfyui.versions import (
    EDITOR_PACKAGE,
    Feature,
    Limitation,
    editor_problem,
    has,
    installed_editor,
    limitations,
)
from backends.models import Backend
from backends.queries import backend_list, unique_names
from director.doctor import checks
from director.doctor.checks import SEVERITY, Finding, Level

_ANSWER_TIMEOUT_S: Final = 5.0
_CLOCK_S: Final = 60.0  #: A smaller difference of clocks does no harm.
_GIB: Final = 2**30
#: Previews depend on ComfyUI's options, too.
_LEVELS: Final[Mapping[str, Level]] = {
    Limitation.NO_JOBS: Level.PROBLEM,
    Limitation.NO_STOP: Level.WARNING,
    Limitation.STEPWISE_STOP: Level.NOTE,
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """Response of a backend; ``skew``: seconds that its clock is ahead, None if unknown."""

    stats: SystemStats
    waiting: int
    skew: float | None


def backends() -> dict[str, Finding]:
    rows = backend_list()
    if not rows:
        todo = "director backends add http://HOST:8188, or director backends find --add"
        return {"Backends": Finding(Level.WARNING, "None is registered.", todo)}
    answers, names = asyncio.run(_probe_all(rows)), unique_names()
    return {
        f"Backend {names.get(row.id, row.id)}": _finding(
            row, answers[row.id], _sharing(row, rows, answers)
        )
        for row in rows
    }


def _sharing(
    row: Backend, rows: Sequence[Backend], answers: Mapping[str, _Answer | str]
) -> list[str]:
    """Return the names of backends of the same machine that answer and have a database of assets."""
    host = urlsplit(row.url).hostname
    others = [
        other for other in rows if other.id != row.id and urlsplit(other.url).hostname == host
    ]
    return [
        other.name
        for other in others
        if not isinstance(answer := answers[other.id], str) and answer.stats.has_assets
    ]


async def _probe_all(rows: Sequence[Backend]) -> dict[str, _Answer | str]:
    async with asyncio.TaskGroup() as tasks:
        probes = {
            row.id: tasks.create_task(_probe(row), name=f"probe {row.id}")
            for row in rows
            if row.enabled
        }
    answers = {backend_id: task.result() for backend_id, task in probes.items()}
    return {row.id: answers.get(row.id, "It was not probed.") for row in rows}


async def _probe(row: Backend) -> _Answer | str:
    limits = Timeouts(
        connect_s=_ANSWER_TIMEOUT_S, silence_s=_ANSWER_TIMEOUT_S, total_s=_ANSWER_TIMEOUT_S
    )
    try:
        async with ComfyClient(row.url, headers=row.headers, timeouts=limits) as comfy:
            stats = await comfy.system_stats()
            waiting = await comfy.queue_remaining()
            requested_at = dt.datetime.now(dt.UTC)
            clock = await comfy.clock()
            # The clock has whole seconds, read between request and response.
            skew = None if clock is None else (clock - requested_at).total_seconds()
            return _Answer(stats, waiting, skew)
    except BackendError as error:
        return error.detail
    except ValueError as error:
        return str(error)


def _finding(row: Backend, answer: _Answer | str, sharing: Sequence[str] = ()) -> Finding:
    if not row.enabled:
        return Finding(Level.NOTE, f"{row.url} is disabled.", f"director backends enable {row.id}")
    if isinstance(answer, str):
        todo = (
            "Is ComfyUI running there, started with --listen, and no firewall between?"
            f" If it does not come back: director backends disable {row.id}"
        )
        if sharing:
            todo += (
                "\nIf its log says that the database of assets is in use: it starts from the "
                "same folder as"
                f" {', '.join(sharing)}. Give it a --database-url of its own, or --disable-assets."
            )
        return Finding(Level.PROBLEM, f"{row.url} does not answer: {answer}", todo)
    level, sentences, todos = Level.OK, [f"{row.url}: {_describe(answer)}."], []
    for problem in sorted(
        _problems(row, answer), key=lambda finding: -SEVERITY.index(finding.level)
    ):
        level = max(level, problem.level, key=SEVERITY.index)
        sentences.append(problem.said)
        todos.append(problem.todo)
    return Finding(level, " ".join(filter(None, sentences)), "\n".join(dict.fromkeys(todos)))


def _describe(answer: _Answer) -> str:
    memory = sum(device.vram_total or 0 for device in answer.stats.devices) / _GIB
    devices = ", ".join(device.name for device in answer.stats.devices[:4]) or "no device"
    previews = "previews on" if _has_previews(answer.stats) else "no previews"
    waiting = f"{answer.waiting} pending or running" if answer.waiting else "idle"
    version = f"ComfyUI {answer.stats.version or 'of unknown version'}"
    return f"{version}, {devices} ({memory:.0f} GB), {previews}, {waiting}"


def _has_previews(stats: SystemStats) -> bool:
    return stats.makes_previews or has(stats.version, Feature.PREVIEW_METHOD)


def _problems(row: Backend, answer: _Answer) -> list[Finding]:
    findings = []
    if row.quarantined_at is not None:
        wrong = f"It is quarantined: {_reason(row.quarantine_reason)}."
        findings.append(Finding(Level.WARNING, wrong, f"director backends release {row.id}"))
    if row.hold:
        wrong = f"It is held by a user ({row.get_hold_display()}): {_reason(row.changed_reason)}."
        findings.append(Finding(Level.NOTE, wrong, f"director backends resume {row.id}"))
    lacking = limitations(answer.stats.version or "unknown")
    findings += [
        Finding(_LEVELS[capability], capability, "Update ComfyUI there.")
        for capability in lacking
        if capability in _LEVELS
    ]
    if answer.skew is not None and abs(answer.skew) > _CLOCK_S:
        way = "ahead" if answer.skew > 0 else "behind"
        wrong = (
            f"Its clock is {abs(answer.skew):.0f} s {way}: dates in its file names and logs are "
            "wrong."
        )
        findings.append(Finding(Level.WARNING, wrong, "Synchronize its clock by NTP."))
    if problem := editor_problem(answer.stats.editor, installed_editor()):
        todo = (
            f"Install it: {sys.executable} -m pip install '{EDITOR_PACKAGE}>={answer.stats.editor}'"
        )
        findings.append(Finding(Level.WARNING, problem, todo))
    if not _has_previews(answer.stats):
        todo = f"For live previews start ComfyUI there with {PREVIEW_OPTION} auto."
        findings.append(Finding(Level.NOTE, "", todo))
    return findings


def _reason(given: str) -> str:
    return given.rstrip(".") or "no reason was given"


def run_checks(port: int) -> dict[str, Finding]:
    """Return the findings by the part that was checked."""
    findings = {
        "Python": checks.python(),
        "Packages": checks.packages(),
        "Settings": checks.variables(),
        "ffmpeg": checks.ffmpeg(),
        "Data folder": checks.data_folder(),
        f"Port {port}": checks.port(port),
        "Database": checks.database(),
    }
    # The other checks need a database that is open and migrated.
    if findings["Database"].level in (Level.OK, Level.WARNING):
        findings |= checks.other_parts() | checks.webhooks() | backends()
    return findings
