"""Stores files and settings of users of ComfyUI's editor."""

import json
from collections.abc import Mapping
from typing import IO, Any, Final
from zipfile import ZIP_DEFLATED, ZipFile

from blake3 import blake3
from django.db import IntegrityError
from django.db.models import Count, Sum
from django.db.models.functions import Length

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.clock import now
from jobgroups.domain.listener_files import USER
from jobgroups.domain.media_types import media_type
from jobgroups.errors import UserFileExists, UserFileNotFound, UserStorageFull
from jobgroups.models import EditorSetting, InputFile
from jobgroups.queries.user_files import editor_settings, files_of
from jobgroups.serializers import to_json
from jobgroups.services.assets import ReceivedFile, asset_store
from jobgroups.services.stored_files import IncomingFile, read_file

MAX_FILE_BYTES: Final = 20 * 2**20
MAX_OWNER_BYTES: Final = 2**30
MAX_SETTINGS: Final = 5_000  #: Of one owner.
_PART_BYTES: Final = 8 * 2**20


def user_file_store(
    content: bytes, *, owner: str, owner_id: int | None, path: str, overwrite: bool
) -> InputFile:
    """Store a file of a user, in the place of one with its path if ``overwrite``.

    Raises ``UserFileExists``, ``UserStorageFull``, or what ``asset_store`` raises.
    """
    rows = InputFile.objects.filter(owner=owner, folder=USER)
    row = rows.filter(path=path).first()
    if row is not None and not overwrite:
        raise UserFileExists(path)
    used = rows.exclude(path=path).aggregate(bytes=Sum("asset__size_bytes"))["bytes"] or 0
    if len(content) > MAX_FILE_BYTES or used + len(content) > MAX_OWNER_BYTES:
        raise UserStorageFull(MAX_FILE_BYTES // 2**20, MAX_OWNER_BYTES // 2**20)
    row = row or InputFile(owner=owner, folder=USER, path=path)
    row.created_at = now()
    file = IncomingFile(blake3())
    try:
        file.write(content)
        file.close()
        received = ReceivedFile.of(file, path.rpartition("/")[2], media_type(path))
        asset_store(received, row, owner_id=owner_id, is_upload=False)
    except IntegrityError:
        if not rows.filter(path=path).exists():
            raise
        # Another request made a file with the path at the same moment.
        return user_file_store(
            content, owner=owner, owner_id=owner_id, path=path, overwrite=overwrite
        )
    finally:
        file.discard()
    return row


@retried_transaction
def user_file_move(*, owner: str, path: str, to: str, overwrite: bool) -> InputFile:
    """Rename a file of a user. Raises ``UserFileNotFound``, or ``UserFileExists``."""
    rows = InputFile.objects.filter(owner=owner, folder=USER)
    row = rows.select_for_update().filter(path=path).select_related("asset").first()
    if row is None:
        raise UserFileNotFound(path)
    replaced = rows.filter(path=to).exclude(pk=row.pk)
    if replaced.exists():
        if not overwrite:
            raise UserFileExists(to)
        replaced.delete()
    row.path = to
    row.save(update_fields=["path"])
    return row


def user_file_delete(*, owner: str, path: str) -> None:
    """Delete a file of a user. Raises ``UserFileNotFound``."""
    if not InputFile.objects.filter(owner=owner, folder=USER, path=path).delete()[0]:
        raise UserFileNotFound(path)


@retried_transaction
def settings_change(*, owner: str, values: Mapping[str, Any]) -> None:
    """Store some settings of a user. Raises ``UserStorageFull`` if they are too many, or have more
    than a file may have.
    """
    rows = [
        EditorSetting(owner=owner, name=name, value_json=to_json(value))
        for name, value in values.items()
    ]
    EditorSetting.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["owner", "name"], update_fields=["value_json"]
    )
    stored = EditorSetting.objects.filter(owner=owner).aggregate(
        number=Count("pk"), length=Sum(Length("value_json"))
    )
    if stored["number"] > MAX_SETTINGS or (stored["length"] or 0) > MAX_FILE_BYTES:
        raise UserStorageFull(MAX_FILE_BYTES // 2**20, MAX_OWNER_BYTES // 2**20)


def files_export(owner: str, file: IO[bytes]) -> int:
    """Write the files and the settings of an owner into a zip file; return the number of files."""
    rows = list(files_of(owner))
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        settings = json.dumps(editor_settings(owner), ensure_ascii=False, indent=2)
        archive.writestr("settings.json", settings)
        for row in rows:
            size = row.asset.size_bytes
            with archive.open(f"{row.folder}/{row.path}", "w", force_zip64=True) as entry:
                for first in range(0, size, _PART_BYTES):
                    part = read_file(row.asset.stored_name, first, min(_PART_BYTES, size - first))
                    entry.write(part)
    return len(rows)


@retried_transaction
def files_purge(owner: str) -> None:
    """Delete the names of all files of an owner, and the settings.

    Runners delete contents that nothing else names within the next days; uploads stay assets.
    """
    InputFile.objects.filter(owner=owner).delete()
    EditorSetting.objects.filter(owner=owner).delete()
