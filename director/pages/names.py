"""Names of groups and backends, for pages whose rows have their ids alone."""

from collections.abc import Iterable

from backends.queries import backends_by_id
from jobgroups.domain.access import Principal
from jobgroups.models import JobGroup
from jobgroups.queries.visibility import visible


def names_by_id(ids: Iterable[str], principal: Principal) -> dict[str, str]:
    """Return the names of those ids that are of a backend, or of a group that a principal sees."""
    wanted, groups = set(ids), JobGroup.objects.filter(visible(principal))
    named = groups.only("name", "metadata_json", "summary_json").in_bulk(wanted)
    names = {backend.id: backend.name for backend in backends_by_id(wanted).values()}
    return {
        id_: name
        for id_, name in (names | {group.id: group.title for group in named.values()}).items()
        if name
    }
