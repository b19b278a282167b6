"""Reads doubtful copies again, which earlier releases took for the files of jobs, and replaces them
by good ones.
"""

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from jobgroups.domain.bodies import Body, NoCopy
from jobgroups.domain.media_types import media_type
from jobgroups.errors import BackendAway, OutputGone, ProvenanceUnknown
from jobgroups.models import StoredFile
from jobgroups.outputs import download
from jobgroups.outputs.png_workflow import mark_in_png
from jobgroups.queries.outputs import OutputFile, stored_captures, was_written_last
from jobgroups.runner.captures import store_copy
from jobgroups.services.captures import capture_warn
from jobgroups.services.stored_files import IncomingFile, has_file, read_file

_CHUNK: Final = 2**22  #: Bytes of a copy that are read at once.
#: Seconds for a file: a backend may send a few bytes from time to time.
_COPIED_WITHIN: Final = 600.0
#: Bytes of a PNG in which its mark is searched: ComfyUI writes it before the pixels.
_HEAD: Final = 2**24


class _Stays(Exception):
    """The copy is not replaced; the text is the reason."""


def copies_recheck(*, group_id: str | None = None) -> Iterator[bool]:
    """Judge the copies of one group or of all; yield for each doubtful one whether it was replaced.

    A copy is replaced by a file that is good, and proven to be the job's. Otherwise it stays, with
    a warning. Raises ``StorageAway`` or ``StorageFull``.
    """
    doubts: dict[tuple[str, str], str] = {}  # jobs share the file of a content
    for capture_id, file, copy in stored_captures(group_id=group_id):
        key = copy.pk, media_type(file.filename)
        if key not in doubts:
            doubts[key] = _doubt(file, copy)
        if not doubts[key]:
            continue
        try:
            _replace(capture_id, file)
        except (_Stays, BackendAway, OutputGone) as error:
            reason = f"{doubts[key]} The copy stays after it was read again: {error}"
            capture_warn(capture_id=capture_id, reason=reason)
            yield False
        else:
            yield True


def _doubt(file: OutputFile, copy: StoredFile) -> str:
    """Return what is wrong or doubtful about a copy; empty if nothing is."""
    if not has_file(copy.stored_name, copy.size_bytes):
        return "The storage does not have the whole file any more."
    body = Body(file.filename)
    if not body.is_judged:
        return ""
    try:
        for first in range(0, copy.size_bytes, _CHUNK):
            body.add(read_file(copy.stored_name, first, min(_CHUNK, copy.size_bytes - first)))
        body.end()
    except NoCopy as error:
        return str(error)
    return body.warning


def _replace(capture_id: int, file: OutputFile) -> None:
    incoming = IncomingFile(blake3(), hashlib.sha256())
    try:
        answer, warning = asyncio.run(_receive(file, incoming))
        incoming.close()
        if warning:
            raise _Stays(warning)
        if not _is_proven(file, answer, incoming):
            raise _Stays("Nothing proves that the file of its backend is of this job.")
        store_copy(capture_id, file, incoming, "")
    finally:
        incoming.discard()


async def _receive(file: OutputFile, incoming: IncomingFile) -> tuple[download.BackendAnswer, str]:
    try:
        async with asyncio.timeout(_COPIED_WITHIN):
            async with download.open_at_backend(file) as answer:
                async for chunk in answer.chunks():
                    incoming.write(chunk)
            return answer, await download.verify(file, answer)
    except TimeoutError:
        raise _Stays(
            f"Its backend did not send the whole file within {_COPIED_WITHIN:g} s."
        ) from None


def _is_proven(file: OutputFile, answer: download.BackendAnswer, incoming: IncomingFile) -> bool:
    """Return whether a file has the content of its copy or the mark of its job, or was dated by its
    backend before its job ended and no later one.

    A file that is younger than the end of its job was refused when it was opened.
    """
    if file.stored is not None and incoming.hashes[0].hexdigest() == file.stored.blake3:
        return True
    try:
        with incoming.path.open("rb") as content:
            mark = mark_in_png(content.read(_HEAD))
    except ProvenanceUnknown:
        mark = None
    if mark is not None:
        return (mark.get("group"), mark.get("job")) == (file.group_id, file.job_id)
    return answer.written_at is not None and file.ended_by_backend and was_written_last(file)
