"""Selects the backends of a command: by id, by tag, all of them, or the candidates of the pool."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from director.cli.connection import closest_match, none_registered
from director.cli.exit_status import CommandError, Status, usage_error
from director.client import Backend, SkippedBackend
from jobgroups.domain.pool import ANY_BACKEND, TAG_PREFIX

#: A backend with one of these statuses gets no jobs.
_NO_JOBS: Final = {"disabled", "offline", "quarantined", "draining"}


@dataclass(frozen=True, slots=True)
class SelectedBackends:
    """The backends of a submission.

    Attributes:
        backend_ids: The backend of each job, in order; in the pool the candidates.
        left_out: Backends without a job; in the pool those that can take none now.
        count: Jobs in the pool; None: each job has its backend.
    """

    backend_ids: list[str]
    left_out: list[SkippedBackend]
    count: int | None = None


def by_name(names: Sequence[str], known: Sequence[Backend]) -> list[Backend]:
    """Return the backends with these names, in order; an id takes precedence over a tag.

    A name may also be a list of names separated by commas. Raises ``CommandError`` if no backend has such a name.
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
            raise none_registered()
    return found


def exactly_one(name: str, known: Sequence[Backend]) -> Backend:
    """Return the backend with this name; raise ``CommandError`` if no backend has it, or several have it."""
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


def for_children(names: Sequence[str], *, known: Sequence[Backend]) -> SelectedBackends:
    """Return the backends of a submission whose jobs have a backend each.

    Named backends get one job for each time they are named; the Director refuses those that cannot accept it. Without
    names, all available backends get one; if none is available, all are sent, and the Director returns the reasons.
    Raises ``CommandError`` if no backend is registered, or no backend has such a name.
    """
    if names:
        return SelectedBackends([backend.backend_id for backend in _meant(names, known)], [])
    if not known:
        raise none_registered()
    able = [backend for backend in known if backend.status not in _NO_JOBS] or known
    left_out = [SkippedBackend(backend_id=one.backend_id, reason=_reason(one)) for one in known if one not in able]
    return SelectedBackends([one.backend_id for one in able], left_out)


def for_pool(names: Sequence[str], tags: Sequence[str], *, count: int, known: Sequence[Backend]) -> SelectedBackends:
    """Return the candidates of a submission to the pool; without names and tags every backend is one.

    A tag stands also for backends that get it later. Names are as of ``by_name``. Raises ``CommandError`` if no backend
    has such a name or tag.
    """
    if not names and not tags:
        return SelectedBackends([ANY_BACKEND], [], count)
    if names:
        _meant(names, known)
    ids = {backend.backend_id for backend in known}
    found = [name if name in ids else f"{TAG_PREFIX}{name}" for name in _single(names, known)]
    in_use = {tag for backend in known for tag in backend.tags}
    for tag in tags:
        if tag not in in_use:
            raise unknown_backend(tag, "the tag", in_use)
    found += [f"{TAG_PREFIX}{tag}" for tag in tags]
    return SelectedBackends(list(dict.fromkeys(found)), [], count)


def _meant(names: Sequence[str], known: Sequence[Backend]) -> list[Backend]:
    found = by_name(names, known)
    if not found:
        raise usage_error("--backend has no name.", "It is empty; is the variable set?")
    return found


def _reason(backend: Backend) -> str:
    """Return why a backend gets no jobs now."""
    reason = (backend.status_reason or "").rstrip(".")
    return f"{backend.status}: {reason}" if reason else backend.status
