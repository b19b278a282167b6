"""What a principal sees: the conditions by which the rows of every list are chosen."""

from collections.abc import Collection

from django.db.models import Q

from jobgroups.domain.access import Principal
from jobgroups.domain.listener_files import account_owner
from jobgroups.models import AssetOwner, AssetRecord, AssetUse, InputFile, JobGroup


def visible(principal: Principal, group: str = "", *, with_shared: bool = True) -> Q:
    """Return the condition of the groups that a principal sees, or of rows that belong to them.

    Args:
        group: the lookup that leads from a row to its group; empty: the rows are groups.
        with_shared: whether what others share is among them.
    """
    if principal.sees_all:
        return Q()
    path = f"{group}__" if group else ""
    condition = Q(**{f"{path}owner": principal.user_id})
    return condition | Q(**{f"{path}shared_at__isnull": False}) if with_shared else condition


def visible_assets(principal: Principal) -> Q:
    """Return the condition of the assets that a principal sees: its own, and those of shared
    groups.
    """
    if principal.sees_all:
        return Q()
    user_id = principal.user_id
    uses = AssetUse.objects.filter(group__in=JobGroup.objects.filter(shared_at__isnull=False))
    return (
        Q(owner=user_id)
        | Q(pk__in=AssetOwner.objects.filter(owner=user_id).values("asset"))
        | Q(pk__in=AssetRecord.objects.filter(owner=user_id).values("asset"))
        | Q(pk__in=InputFile.objects.filter(owner=account_owner(user_id or 0)).values("asset"))
        | Q(pk__in=uses.values("asset"))
    )


def visible_records(principal: Principal) -> Q:
    """Return the condition of the records of the Comfy API v2 that a principal sees."""
    return Q() if principal.sees_all else Q(owner=principal.user_id)


def seen_groups(principal: Principal, group_ids: Collection[str]) -> set[str]:
    """Return those of some groups that exist for a principal."""
    rows = JobGroup.objects.filter(visible(principal), pk__in=group_ids)
    return set(rows.values_list("pk", flat=True))


def sees_group(principal: Principal, group_id: str) -> bool:
    """Return whether a group exists for a principal."""
    return JobGroup.objects.filter(visible(principal), pk=group_id).exists()
