"""Selects the backends of a command: by id, by tag, all of them, or the candidates of the pool."""

from collections.abc import Iterable, Sequence

from director.cli.connection import Connection, closest_match, none_registered
from director.cli.exit_status import CommandError, Status, usage_error
from director.client import Backend
from jobgroups.domain.pool import ANY_BACKEND, TAG_PREFIX


def by_name(names: Sequence[str], known: Sequence[Backend]) -> list[Backend]:
    """Return the backends with these names, in order; an id takes precedence over a display name,
    and that over a tag.

    A name may also be a list of names separated by commas. Raises ``CommandError`` if no backend
    has such a name.
    """
    by_id = {backend.backend_id: backend for backend in known}
    selected: list[Backend] = []
    for name in _single(names, known):
        if name in by_id:
            selected.append(by_id[name])
        elif named := [backend for backend in known if name == backend.name]:
            selected += named
        elif tagged := [backend for backend in known if name in backend.tags]:
            selected += tagged
        elif known:
            tags = {tag for backend in known for tag in backend.tags}
            raise unknown_backend(name, "the id or the tag", {*by_id, *tags})
        else:
            raise none_registered()
    return selected


def filter_id(connection: Connection, name: str | None) -> str | None:
    """Return the id of the backend that a filter names; of one that was removed the id is given."""
    known = connection.director.backends() if name else ()
    is_name = name in {row.name for row in known} - {row.backend_id for row in known}
    return exactly_one(name, known).backend_id if name and is_name else name


def exactly_one(name: str, known: Sequence[Backend]) -> Backend:
    """Return the backend with this name; raise ``CommandError`` if no backend has it, or several
    have it.
    """
    matching = by_name([name], known)
    if len(matching) != 1:
        ids = ", ".join(backend.backend_id for backend in matching)
        raise usage_error(f"{name} means several backends ({ids}). Name one of them.")
    return matching[0]


def _single(names: Sequence[str], known: Sequence[Backend]) -> list[str]:
    """Split lists; a display name and a tag may contain a comma."""
    whole = {name for backend in known for name in (backend.name, *backend.tags)}
    parts = [[name] if name in whole else name.split(",") for name in names]
    return [part.strip() for split in parts for part in split if part.strip()]


def unknown_backend(name: str, kind: str, names: Iterable[str]) -> CommandError:
    """Return the error for a name that no backend has, with similar names."""
    hint = closest_match(name, sorted(names), "director backends lists all.")
    message = f"No backend has {kind} {name!r}."
    return CommandError(message, Status.REFUSED, hint=hint, details={"code": "backend_not_found"})


def for_children(names: Sequence[str], *, known: Sequence[Backend]) -> list[str]:
    """Return the backend of each job of a submission: those with these names, as often as named;
    without names, all.

    The Director leaves out those that cannot accept a job. Raises ``CommandError`` if no backend is
    registered, or no backend has such a name.
    """
    if not names and not known:
        raise none_registered()
    return [backend.backend_id for backend in (_select_named(names, known) if names else known)]


def for_pool(names: Sequence[str], tags: Sequence[str], *, known: Sequence[Backend]) -> list[str]:
    """Return the candidates of a submission to the pool; without names and tags every backend is
    one.

    A tag stands also for backends that get it later. Names are as of ``by_name``. Raises
    ``CommandError`` if no backend has such a name or tag.
    """
    if not names and not tags:
        return [ANY_BACKEND]
    if names:
        _select_named(names, known)
    ids = {backend.backend_id for backend in known}
    shown = {backend.name for backend in known} - ids
    candidates = []
    for name in _single(names, known):
        if name in ids:
            candidates.append(name)
        elif name in shown:
            candidates += [backend.backend_id for backend in known if backend.name == name]
        else:
            candidates.append(f"{TAG_PREFIX}{name}")
    in_use = {tag for backend in known for tag in backend.tags}
    for tag in tags:
        if tag not in in_use:
            raise unknown_backend(tag, "the tag", in_use)
    candidates += [f"{TAG_PREFIX}{tag}" for tag in tags]
    return list(dict.fromkeys(candidates))


def _select_named(names: Sequence[str], known: Sequence[Backend]) -> list[Backend]:
    selected = by_name(names, known)
    if not selected:
        raise usage_error("--backend has no name.", "It is empty; is the variable set?")
    return selected
