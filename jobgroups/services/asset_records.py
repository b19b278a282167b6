"""Assets of the Comfy API v2: stored, minted and deleted as records; resolved in workflows.

Records share an asset by its content. An asset that records alone name (``is_recorded_only``) goes
with the last of them.
"""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from django.db import IntegrityError

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.access import Principal
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.media_types import media_type
from jobgroups.errors import (
    AssetHeld,
    AssetInUse,
    AssetNotFound,
    BlobNotFound,
    IdempotencyKeyReuse,
    MissingAsset,
)
from jobgroups.models import Asset, AssetRecord, Capture, DeletedSubmission, StoredFile
from jobgroups.queries.asset_records import assets_by_path, content_by_hash, named_asset
from jobgroups.queries.assets import assets_of, name_of
from jobgroups.services import audit, stored_files
from jobgroups.services.assets import (
    ReceivedFile,
    asset_share,
    asset_store,
    locked_delete,
    locked_disown,
    records_delete,
)
from jobgroups.services.submission import IDEMPOTENCY_TTL
from jobgroups.workflow.assets import FILE_INPUTS, asset_reference, asset_references
from jobgroups.workflow.graph import Workflow, WorkflowCopy

_CHUNK: Final = 4 * 2**20
#: How long a submission waits until the output of a job that has just ended is stored.
_CAPTURE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.2


def record_store(
    *,
    received: ReceivedFile,
    file_path: str,
    idempotency_key: str | None,
    owner_id: int | None = None,
) -> tuple[str, bool]:
    """Store an uploaded file with a new record; return the record's id and whether the content is
    new.

    Raises ``IdempotencyKeyReuse``, or as ``asset_store`` does.
    """
    _require_unused(idempotency_key)
    record = AssetRecord(
        id=str(uuid.uuid4()),
        file_path=file_path,
        idempotency_key=idempotency_key,
        owner_id=owner_id,
        created_at=now(),
    )
    try:
        _, is_new = asset_store(received, record, owner_id=owner_id)
    except IntegrityError:
        _require_unused(idempotency_key)  # another request with the key was faster
        raise
    return record.pk, is_new


def _require_unused(key: str | None) -> None:
    if key is None:
        return
    oldest = now() - IDEMPOTENCY_TTL
    DeletedSubmission.objects.filter(created_at__lte=oldest).delete()
    rows = AssetRecord.objects.filter(idempotency_key=key)
    rows.filter(created_at__lte=oldest).update(idempotency_key=None)
    if (
        rows.exists()
        or DeletedSubmission.objects.filter(submitter="", idempotency_key=key).exists()
    ):
        raise IdempotencyKeyReuse


def record_mint(
    *, content_hash: str, file_path: str | None, principal: Principal
) -> tuple[str, bool]:
    """Return the id of a record of content that a principal sees, and whether it is new: one with
    the same path is used again.

    Raises ``BlobNotFound``. ``file_path`` None: the name of the first upload of the content.
    """
    content = content_by_hash(content_hash, principal)
    if isinstance(content, StoredFile):
        content = output_asset(content, file_path or "file", principal.user_id)
    return _mint(content.pk, file_path or name_of(content), principal.user_id)


@retried_transaction
def _mint(asset_id: str, file_path: str, owner_id: int | None) -> tuple[str, bool]:
    if not Asset.objects.filter(pk=asset_id).update(used_at=now()):
        raise BlobNotFound
    known = AssetRecord.objects.filter(asset=asset_id, file_path=file_path, owner=owner_id).first()
    if known is not None:
        return known.pk, False
    row = AssetRecord.objects.create(
        id=str(uuid.uuid4()),
        asset_id=asset_id,
        file_path=file_path,
        owner_id=owner_id,
        created_at=now(),
    )
    audit.record(Action.ASSET_UPLOADED, row.pk, name=file_path, content=asset_id)
    return row.pk, True


def record_delete(*, asset_id: str, principal: Principal, owner_id: int | None = None) -> None:
    """Delete an asset by its id; its content stays while another asset has it. ``owner_id``: the
    account whose upload is deleted; None: all of them are.

    Raises ``AssetNotFound``, or ``AssetHeld`` if an open group needs the content, or if it is the
    output of a job.
    """
    content, _ = named_asset(asset_id, principal)
    if not isinstance(content, Asset):
        raise AssetHeld(asset_id)
    with stored_files.mark_files(content.stored_name):
        try:
            is_last = _delete(content.pk, asset_id, owner_id)
        except AssetInUse:
            raise AssetHeld(asset_id) from None
        if is_last:
            stored_files.delete_file(content.stored_name)


@retried_transaction
def _delete(content_id: str, asset_id: str, owner_id: int | None) -> bool:
    """Delete the rows of an asset; return whether those of its content are among them."""
    content = Asset.objects.select_for_update().filter(pk=content_id).first()
    record, is_own = AssetRecord.objects.filter(pk=asset_id), content_id == asset_id
    if content is None or (content.is_recorded_only if is_own else not record.exists()):
        raise AssetNotFound(asset_id)
    audit.record(Action.ASSET_DELETED, asset_id)
    if is_own and owner_id is not None and locked_disown(content, owner_id):
        return False
    is_named = content.records.exclude(pk=asset_id).exists() or content.input_files.exists()
    if (is_own or content.is_recorded_only) and not is_named:
        locked_delete(content)
        return True
    if is_own:
        Asset.objects.filter(pk=content_id).update(is_recorded_only=True)
    else:
        records_delete(record)
    return False


def resolve(graph: Workflow, principal: Principal) -> Workflow:
    """Return a workflow whose references name assets of our own API, and with them the names of
    uploaded files, as far as a principal sees them.

    A name is that of a file if the input takes one and a record has it as its whole path; the
    newest one counts.

    Raises ``MissingAsset`` if a reference has no asset, or is where none can be.
    """
    copy = WorkflowCopy(graph)
    for node_id, name, asset_id in asset_references(graph):
        try:
            copy.set(node_id, name, asset_reference(_content_of(asset_id, principal).pk))
        except AssetNotFound:
            raise MissingAsset(node_id, name, "There is no asset with this id.") from None
        except BlobNotFound:
            reason = "The output is not stored here. Download it, and upload it as an asset."
            raise MissingAsset(node_id, name, reason) from None
    known = assets_by_path([value for *_, value in _file_names(graph)], principal)
    for node_id, name, value in _file_names(graph):
        if value in known:
            copy.set(node_id, name, asset_reference(known[value]))
    return copy.nodes


def _file_names(graph: Workflow) -> Iterator[tuple[str, str, str]]:
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and name in FILE_INPUTS:
                yield node_id, name, value
            elif isinstance(value, list) and any(
                isinstance(element, dict) and "__type" in element for element in value
            ):
                raise MissingAsset(
                    node_id, name, "A reference must be the whole value of an input."
                )


def _content_of(asset_id: str, principal: Principal) -> Asset:
    """Return the content of an asset; raise ``AssetNotFound``, or ``BlobNotFound`` if an output is
    not stored.
    """
    # Its own id, also if records alone name it: the workflow of a job has that id.
    if (own := assets_of(principal).filter(pk=asset_id).first()) is not None:
        return own
    until = time.monotonic() + _CAPTURE_SECONDS
    while not isinstance(content := named_asset(asset_id, principal)[0], Asset):
        if content.stored is not None:
            return output_asset(content.stored, content.filename, principal.user_id)
        pending = Capture.objects.filter(child=content.job_id, due_at__isnull=False)
        if time.monotonic() > until or not pending.exists():
            raise BlobNotFound
        time.sleep(_POLL_SECONDS)
    return content


def output_asset(file: StoredFile, name: str, owner_id: int | None) -> Asset:
    """Return an asset with the content of a captured output, for an account; it is a second name of
    the file where the storage has such names, else a copy.

    Raises ``BlobNotFound`` if the storage does not have the whole file.
    """
    known = Asset.objects.filter(hash=file.blake3).first()
    if known is not None and asset_share(known, owner_id=owner_id, name=name):
        return known
    path = stored_files.linked(file.stored_name) or _copied(file)
    try:
        received = ReceivedFile(
            path=path,
            name=name,
            content_type=media_type(name),
            size_bytes=file.size_bytes,
            hash=file.blake3,
        )
        return asset_store(received, owner_id=owner_id, is_upload=False)[0]
    finally:
        path.unlink(missing_ok=True)


def _copied(file: StoredFile) -> Path:
    incoming = stored_files.IncomingFile()
    try:
        while incoming.size_bytes < file.size_bytes:
            if not (chunk := stored_files.read_file(file.stored_name, incoming.size_bytes, _CHUNK)):
                raise BlobNotFound
            incoming.write(chunk)
        incoming.close()
    except BaseException as error:
        incoming.discard()
        if isinstance(error, FileNotFoundError):
            raise BlobNotFound from None
        raise
    return incoming.path
