"""Names assets as programs upload files to the ComfyUI listener, and deletes the names of images
that are put for one prompt.
"""

import contextlib
import datetime as dt
from typing import Final

from django.db import IntegrityError
from django.db.models import Exists, OuterRef

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.clock import now
from jobgroups.domain.listener_files import IMAGES, numbered
from jobgroups.errors import AssetInUse, AssetNotFound
from jobgroups.models import Asset, AssetRecord, AssetUse, InputFile
from jobgroups.services.assets import ReceivedFile, asset_delete, asset_store

#: How long an image stays that a program puts before its prompt.
IMAGES_KEPT: Final = dt.timedelta(days=1)
_NAME_TRIES: Final = 20  #: Of requests that choose the same name at the same moment.


def input_store(
    received: ReceivedFile,
    *,
    owner: str,
    owner_id: int | None,
    folder: str,
    path: str,
    overwrite: bool,
) -> str:
    """Store an uploaded file with a name; return the name.

    The name of other content gets a number, as ComfyUI has it, or is that of the new content with
    ``overwrite``. Prompts that wait keep the content that the name had.

    Args:
        owner: as of ``ListenerPrompt``.
        owner_id: the account, for the list of assets; None: there are no accounts.
        folder, path: as of ``InputFile``.

    Raises what ``asset_store`` raises.
    """
    asset, _ = asset_store(received, owner_id=owner_id)
    for _ in range(_NAME_TRIES):
        with contextlib.suppress(IntegrityError):
            return _name(asset, owner, folder, path, overwrite=overwrite)
    raise AssetNotFound(asset.pk)


@retried_transaction
def _name(asset: Asset, owner: str, folder: str, path: str, *, overwrite: bool) -> str:
    # Locked: a deletion waits, and then deletes the name too.
    if not Asset.objects.filter(pk=asset.pk).update(used_at=now()):
        raise AssetNotFound(asset.pk)
    stem = path.rpartition(".")[0] or path
    rows = InputFile.objects.filter(owner=owner, folder=folder)
    contents = dict(rows.filter(path__startswith=stem).values_list("path", "asset_id"))
    chosen, number = path, 0
    while not overwrite and contents.get(chosen, asset.pk) != asset.pk:
        number += 1
        chosen = numbered(path, number)
    if contents.get(chosen) == asset.pk:
        return chosen
    # Without ``overwrite`` a name that another request has stored since is an error: it is chosen
    # again.
    is_replaced = overwrite and rows.filter(path=chosen).update(asset=asset, created_at=now())
    if not is_replaced:
        InputFile.objects.create(
            owner=owner, folder=folder, path=chosen, asset=asset, created_at=now()
        )
    return chosen


def image_store(received: ReceivedFile, *, owner: str, owner_id: int | None, image_id: str) -> bool:
    """Store an image that a program puts before its prompt, for ``IMAGES_KEPT``; return whether its
    id had not this content.

    Krita's ids are checksums of 32 bits: the new content of an id takes the place of another one,
    which prompts that wait keep.
    """
    known = InputFile.objects.filter(owner=owner, folder=IMAGES, path=image_id)
    if known.filter(asset__hash=received.hash).update(created_at=now()):
        return False
    known.delete()
    record = InputFile(owner=owner, folder=IMAGES, path=image_id, created_at=now())
    try:
        asset_store(received, record, owner_id=owner_id, is_upload=False)
    except IntegrityError:
        if not known.exists():  # another request with the id was faster
            raise
        return False
    return True


def images_expire() -> None:
    """Delete the ids of images that were not put again for ``IMAGES_KEPT``, and the contents that
    nothing else names.
    """
    InputFile.objects.filter(folder=IMAGES, created_at__lt=now() - IMAGES_KEPT).delete()
    of_asset = OuterRef("pk")
    unnamed = Asset.objects.filter(
        ~Exists(InputFile.objects.filter(asset=of_asset)),
        ~Exists(AssetRecord.objects.filter(asset=of_asset)),
        ~Exists(AssetUse.objects.filter(asset=of_asset, group__completed_at__isnull=True)),
        is_recorded_only=True,
        created_at__lt=now() - IMAGES_KEPT,
    )
    for asset_id in list(unnamed.values_list("pk", flat=True)):
        with contextlib.suppress(AssetNotFound, AssetInUse):
            asset_delete(asset_id=asset_id, unused_since=now() - IMAGES_KEPT)
