"""Selects the backends of a command: by id, by tag, or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from backends.capabilities import BackendCapabilities, missing_capabilities
from director.cli.connection import closest_match, no_backends_error
from director.cli.exit_status import CommandError, Status, usage_error
from director.client import Backend, SkippedBackend

#: A backend with one of these statuses gets no jobs.
_NO_JOBS: Final = {"disabled", "offline", "quarantined", "draining"}


@dataclass(frozen=True, slots=True)
class SelectedBackends:
    """The backends of a submission.

    Attributes:
        backend_ids: The backend of each job, in order.
        left_out: Backends without a job.
    """

    backend_ids: list[str]
    left_out: list[SkippedBackend]


def by_name(names: Sequence[str], known: Sequence[Backend]) -> list[Backend]:
    """Return the backends with these names, in order; an id takes precedence over a tag.

    Args:
        names: Ids and tags, also lists separated by commas.

    Raises:
        CommandError: No backend has such a name.
    """
    by_id = {backend.backend_id: backend for backend in known}
    found: list[Backend] = []
    for name in _single(names, known):
        if name in by_id:
            found.append(by_id[name])
        elif tagged := [backend for backend in known if name in backend.tags]:
            found += tagged
        elif known:
            tags = {tag for backend in known for tag in backend.tags}
            raise unknown_backend(name, "the id or the tag", {*by_id, *tags})
        else:
            raise _none_registered()
    return found


def exactly_one(name: str, known: Sequence[Backend]) -> Backend:
    """Return the backend with this name.

    Raises:
        CommandError: No backend has this name, or several have it.
    """
    found = by_name([name], known)
    if len(found) != 1:
        ids = ", ".join(backend.backend_id for backend in found)
        raise usage_error(f"{name} means several backends ({ids}). Name one of them.")
    return found[0]


def _single(names: Sequence[str], known: Sequence[Backend]) -> list[str]:
    """Split lists; a tag may contain a comma."""
    tags = {tag for backend in known for tag in backend.tags}
    parts = [[name] if name in tags else name.split(",") for name in names]
    return [part.strip() for split in parts for part in split if part.strip()]


def unknown_backend(name: str, kind: str, names: Iterable[str]) -> CommandError:
    """Return the error for a name that no backend has, with similar names."""
    hint = closest_match(name, sorted(names), "director backends lists all.")
    message = f"No backend has {kind} {name!r}."
    return CommandError(message, Status.REFUSED, hint=hint, details={"code": "backend_not_found"})


def _none_registered() -> CommandError:
    return CommandError(
        "No backend is registered.",
        Status.REFUSED,
        hint="Register one: director backends add http://HOST:8188"
        "\nOr those on the Director's host: director backends find --add",
    )


def for_children(names: Sequence[str], *, every: bool, count: int | None, known: Sequence[Backend]) -> SelectedBackends:
    """Return the backends of a submission's jobs.

    Named backends get one job for each time they are named; the Director refuses those that cannot accept
    it. With ``every`` (also without names) and with ``count``, only available backends get jobs, so that 12
    jobs are 12 jobs. If no backend is available, all are sent, and the Director returns the reasons.

    Raises:
        CommandError: No backend is registered, or no backend has such a name.
    """
    every = every or not names
    meant = list(known) if every else by_name(names, known)
    if not known:
        raise _none_registered()
    if not meant:
        raise usage_error("--backend has no name.", "It is empty; is the variable set?")
    if not every and count is None:
        return SelectedBackends([backend.backend_id for backend in meant], [])
    able = [backend for backend in meant if backend.status not in _NO_JOBS] or meant
    left_out = dict.fromkeys(backend for backend in meant if backend not in able)
    ids = [backend.backend_id for backend in able]
    return SelectedBackends(
        list(islice(cycle(ids), count or len(ids))),
        [SkippedBackend(backend_id=b.backend_id, reason=ineligible_reason(b)) for b in left_out],
    )


def without_ineligible(
    selected: SelectedBackends, known: Sequence[Backend], required: Sequence[str]
) -> SelectedBackends:
    """Return the selection without the backends that the Director would leave out now.

    Before it leaves out a backend the Director may probe it once more; that is not predicted.

    Args:
        required: Capabilities.

    Raises:
        CommandError: No backend is left: the Director would refuse the submission.
    """
    rows = {backend.backend_id: backend for backend in known}
    reasons = {
        name: reason
        for name in selected.backend_ids
        if (reason := ineligible_reason(rows[name]) or _lacks(rows[name], required))
    }
    ids = [name for name in selected.backend_ids if name not in reasons]
    if not ids:
        raise no_backends_error(reasons.items())
    skipped = [SkippedBackend(backend_id=name, reason=reason) for name, reason in reasons.items()]
    return SelectedBackends(ids, [*selected.left_out, *skipped])


def _lacks(backend: Backend, required: Sequence[str]) -> str:
    devices = [{"name": device.name} for device in backend.devices]
    has = BackendCapabilities(tags=backend.tags, devices=devices, comfyui_version=backend.comfyui_version or "")
    missing = missing_capabilities(has, required)
    return f"lacks {', '.join(missing)}" if missing else ""


def ineligible_reason(backend: Backend) -> str:
    """Return why a backend gets no jobs now; empty if it gets jobs."""
    if backend.status not in _NO_JOBS:
        return ""
    reason = (backend.status_reason or "").rstrip(".")
    return f"{backend.status}: {reason}" if reason else backend.status
