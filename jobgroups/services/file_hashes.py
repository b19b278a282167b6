"""Stores the SHA-256 of files that were captured without it. It is no event: it increases the
``revision`` of groups.
"""

from collections.abc import Mapping

from django.db import transaction

from jobgroups.database.retry import retry_on_conflict
from jobgroups.models import Capture, StoredFile
from jobgroups.services.revisions import groups_revise


@retry_on_conflict
def file_hashes_store(hashes: Mapping[str, str]) -> None:
    """Store SHA-256s, in hexadecimal digits, by the keys of files. A file that was deleted
    meanwhile is skipped.
    """
    while not _store(hashes):
        pass  # another capture of one of them was stored just now: its group is revised, too


@transaction.atomic
def _store(hashes: Mapping[str, str]) -> bool:
    groups = (
        Capture.objects.filter(file__in=hashes)
        .order_by()
        .values_list("child__group_id", flat=True)
        .distinct()
    )
    revised = groups_revise(set(groups))
    files = list(StoredFile.objects.select_for_update().filter(pk__in=hashes).order_by("pk"))
    if not revised.issuperset(groups.all()):
        transaction.set_rollback(True)
        return False
    for file in files:
        file.sha256 = hashes[file.pk]
    StoredFile.objects.bulk_update(files, ["sha256"])
    return True
