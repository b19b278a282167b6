"""Copied files in sets: those of the plain case are stored in one transaction, each other one by
``captures``.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from django.db import DataError, IntegrityError

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import file_digest, reported_files
from jobgroups.models import StoredFile
from jobgroups.services import captures, stored_files
from jobgroups.services.revisions import groups_revise
from jobgroups.store import captures as store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copy:
    """A synced file whose capture had none: its path as of ``capture_store``, and its row without
    key and time.
    """

    capture_id: int
    group_id: str
    path: Path
    file: StoredFile
    warning: str = ""


def captures_store(copies: Sequence[Copy]) -> dict[int, Exception]:
    """Store copied files with their captures, in a storage that is a folder.

    Returns the errors of those that were not stored, by their captures. After an error of the
    database that may pass, the outcome is unknown; it is raised.
    """
    errors: dict[int, Exception] = {}
    stored = _store_plain(copies)
    for copy in copies:
        if copy.capture_id not in stored:
            try:
                captures.capture_store(
                    capture_id=copy.capture_id, path=copy.path, file=copy.file, warning=copy.warning
                )
            except Exception as error:  # noqa: BLE001 the caller stores or logs it
                errors[copy.capture_id] = error
    return errors


def _store_plain(copies: Sequence[Copy]) -> set[int]:
    """Store the copies of the plain case, and return their captures. The other ones are where they
    were.
    """
    known = store.contents({copy.file.blake3 for copy in copies})
    sizes, moment = {copy.file.blake3: copy.file.size_bytes for copy in copies}, now()
    lost = {
        content
        for content, key in known.items()
        if not stored_files.has_file(StoredFile(id=key, blake3=content).stored_name, sizes[content])
    }
    new: dict[str, Copy] = {}
    for copy in copies:
        if copy.file.blake3 not in known and copy.file.blake3 not in new:
            copy.file.id, copy.file.created_at = str(uuid.uuid4()), moment
            new[copy.file.blake3] = copy
    inserted: set[str] = set()
    stored: set[int] = set()
    with stored_files.mark_files(*(copy.file.stored_name for copy in new.values())):
        try:
            if new:
                names = {copy.path: copy.file.stored_name for copy in new.values()}
                stored_files.move_into_storage(names, are_synced=True)
            stored, inserted = _refer(
                [copy for copy in copies if copy.file.blake3 not in lost], new
            )
        except (OSError, IntegrityError, DataError) as error:
            # Nothing was stored: the cause fails its own copy alone.
            logger.warning("Captures: a set is stored one by one (%s)", error)
        for content, copy in new.items():
            # Another process may have stored this content, or another copy of the set may use it.
            if not (has_row := content in inserted) or copy.capture_id not in stored:
                stored_files.take_back(copy.file.stored_name, copy.path, has_row=has_row)
    return stored


@retried_transaction
def _refer(copies: Sequence[Copy], new: dict[str, Copy]) -> tuple[set[int], set[str]]:
    """Store the captures of the plain case with their files; return them, and the contents that are
    new.
    """
    groups_revise({copy.group_id for copy in copies})
    unstored = {row[0]: row for row in store.lock_unstored([copy.capture_id for copy in copies])}
    plain: dict[str, tuple[Copy, int | None]] = {}
    for copy in copies:
        if row := unstored.get(copy.capture_id):
            _, number, backend_id, outputs_json, attempt_id = row
            items = list(reported_files(json.loads(outputs_json or "{}")))
            if number < len(items) and not items[number].get("missing"):
                # The second one of a file may replace the first.
                plain.setdefault(file_digest(backend_id, items[number]), (copy, attempt_id))
    wanted = {copy.file.blake3 for copy, _ in plain.values()}
    inserted = store.insert_files([copy.file for content, copy in new.items() if content in wanted])
    keys = inserted | store.contents(wanted - inserted.keys(), lock=True)
    referable = [
        (copy, keys[copy.file.blake3], digest, attempt_id)
        for digest, (copy, attempt_id) in plain.items()
        if copy.file.blake3 in keys
    ]
    # What is new has no earlier capture.
    unusual = store.with_earlier(
        [
            (copy.capture_id, key, digest, attempt_id)
            for copy, key, digest, attempt_id in referable
            if copy.file.blake3 not in inserted
        ]
    )
    stored = store.refer(
        [
            (copy.capture_id, key, digest, copy.warning)
            for copy, key, digest, _ in referable
            if copy.capture_id not in unusual
        ]
    )
    return stored, set(inserted)
