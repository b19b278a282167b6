"""Names of groups and backends, for pages whose rows have their ids alone."""

from collections.abc import Iterable

from backends.queries import backends_by_id
from jobgroups.models import JobGroup


def names_by_id(ids: Iterable[str]) -> dict[str, str]:
    """Return the names of those ids that are of a group or a backend."""
    wanted = set(ids)
    named = JobGroup.objects.only("name", "metadata_json", "summary_json").in_bulk(wanted)
    names = {backend.id: backend.name for backend in backends_by_id(wanted).values()}
    return {
        id_: name
        for id_, name in (names | {group.id: group.title for group in named.values()}).items()
        if name
    }
