"""Which backends a command means: by id, by tag, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from backends.capabilities import BackendCapabilities, missing_capabilities
from director.cli.connection import closest_match, no_backends_error
from director.cli.exit_status import CommandError, Status, usage_error
from director.client import Backend

#: A backend in one of these gets no child; a POST says the same, and why.
_NO_CHILDREN: Final = {"disabled", "offline", "quarantined", "draining"}


@dataclass(frozen=True, slots=True)
class SelectedBackends:
    """The backend of each child, in order, and those that get none though they were meant.

    Attributes:
        backend_ids: one a child.
        left_out: id and reason.
    """

    backend_ids: list[str]
    left_out: list[tuple[str, str]]


def by_name(names: Sequence[str], known: Sequence[Backend]) -> list[Backend]:
    """Return the backends that ``names`` name, in their order; an id wins over a tag.

    Args:
        names: ids and tags; several in one are separated by commas.

    Raises:
        CommandError: nothing has such a name.
    """
    by_id = {one.backend_id: one for one in known}
    found: list[Backend] = []
    for name in _single(names, known):
        if name in by_id:
            found.append(by_id[name])
        elif tagged := [one for one in known if name in one.tags]:
            found += tagged
        else:
            raise _unknown(name, known)
    return found


def exactly_one(name: str, known: Sequence[Backend]) -> Backend:
    """Return the one backend that a name means.

    Raises:
        CommandError: nothing has such a name, or several have.
    """
    found = by_name([name], known)
    if len(found) != 1:
        ids = ", ".join(backend.backend_id for backend in found)
        raise usage_error(f"{name} means several backends ({ids}). Name one of them.")
    return found[0]


def _single(names: Sequence[str], known: Sequence[Backend]) -> list[str]:
    """Split lists; a tag may have a comma in it itself."""
    tags = {tag for one in known for tag in one.tags}
    split: Callable[[str], list[str]] = lambda name: (  # noqa: E731 one expression, used once
        [name] if name in tags else [part.strip() for part in name.split(",") if part.strip()]
    )
    return [part for name in names for part in split(name)]


def _unknown(name: str, known: Sequence[Backend]) -> CommandError:
    if not known:
        return _none_registered()
    names = sorted({one.backend_id for one in known} | {tag for one in known for tag in one.tags})
    hint = closest_match(name, names, "director backends lists all.")
    message = f"No backend has the id or the tag {name!r}."
    return CommandError(message, Status.REFUSED, hint=hint, details={"code": "backend_not_found"})


def _none_registered() -> CommandError:
    return CommandError(
        "The Director knows no backend.",
        Status.REFUSED,
        hint="Register one: director backends add http://HOST:8188"
        "\nOr look for those on its own machine: director backends find --add",
    )


def for_children(
    names: Sequence[str], *, every: bool, count: int | None, known: Sequence[Backend]
) -> SelectedBackends:
    """Return where the children of a submission go.

    Named backends get one each, as often as they are named: the Director says why one does not.
    With ``every``, which is also meant if nothing is named, and where a ``count`` is dealt out in turn, only those get any that can take work
    now, so that twelve are twelve; if none can, all are connection for and the Director says why.

    Raises:
        CommandError: no backend is registered, or nothing has such a name.
    """
    every = every or not names
    meant = list(known) if every else by_name(names, known)
    if not known:
        raise _none_registered()
    if not meant:
        raise usage_error("--backend names nothing.", "It is empty; is the variable set?")
    if not every and count is None:
        return SelectedBackends([one.backend_id for one in meant], [])
    able: list[Backend] = [one for one in meant if one.status not in _NO_CHILDREN] or meant
    left_out = {one.backend_id: ineligible_reason(one) for one in meant if one not in able}
    ids = [one.backend_id for one in able]
    return SelectedBackends(list(islice(cycle(ids), count or len(ids))), list(left_out.items()))


def without_ineligible(
    selected: SelectedBackends, known: Sequence[Backend], required: Sequence[str]
) -> SelectedBackends:
    """Return who gets a child once the Director has left out those that cannot take one now.

    It asks those that it has not heard from lately once more before it leaves them out; that is not
    foreseen here.

    Args:
        required: capabilities.

    Raises:
        CommandError: no_backends_error is left, so that the Director would refuse.
    """
    rows = {one.backend_id: one for one in known}
    reasons = {
        name: reason for name in selected.backend_ids if (reason := _unfit(rows[name], required))
    }
    ids = [name for name in selected.backend_ids if name not in reasons]
    if not ids:
        raise no_backends_error(reasons.items())
    return SelectedBackends(ids, [*selected.left_out, *reasons.items()])


def _unfit(backend: Backend, required: Sequence[str]) -> str:
    if reason := ineligible_reason(backend):
        return reason
    devices = [{"name": one.name} for one in backend.devices]
    has = BackendCapabilities(
        tags=backend.tags, devices=devices, comfyui_version=backend.comfyui_version or ""
    )
    missing = missing_capabilities(has, required)
    return f"lacks {', '.join(missing)}" if missing else ""


def ineligible_reason(backend: Backend) -> str:
    """Return why a backend gets no child now; empty if it gets one."""
    if backend.status not in _NO_CHILDREN:
        return ""
    reason = (backend.status_reason or "").rstrip(".")
    return f"{backend.status}: {reason}" if reason else backend.status
