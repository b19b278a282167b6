"""Reads the files that children reported: where they are in the storage, and at their backends."""

import datetime as dt
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from django.db import connection
from django.db.models import F, QuerySet

from backends.errors import RequestError
from backends.models import Backend
from backends.queries import name_of
from jobgroups.database.keys import places, read
from jobgroups.database.statements import KEY, Parameter, PreparedQuery, PreparedValues
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import now
from jobgroups.domain.file_names import DEFAULT_TEMPLATE, FileNames, Template, default_name, facts
from jobgroups.domain.media_types import media_kind
from jobgroups.domain.outputs import REPLACED, SENT, digests, file_digest, reported_files
from jobgroups.domain.states import ChildStatus
from jobgroups.errors import ChildNotFound, GroupNotFound, OutputNotFound
from jobgroups.models import Attempt, Capture, ChildJob, JobGroup, Lease, ReportedFile, StoredFile
from jobgroups.queries.leases import database_now, files_process_alive
from jobgroups.queries.visibility import visible
from jobgroups.serializers import FILE_FIELDS

_AT_ONCE: Final = 500  #: Stored captures that are read at once.


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a child reported, with its copy in the storage and the present address of its
    backend.

    A cached thumbnail of an ``ambiguous`` file may be of another one: it is replaced, and the job
    reported several files with its name.
    """

    backend_id: str
    backend_name: str  #: For users; of a backend that was removed its id.
    url: str  #: The backend's base URL; empty: it is not registered any more.
    #: The registered headers of the backend; secret.
    headers: Mapping[str, str] = field(repr=False)
    prompt_id: str
    filename: str
    subfolder: str
    kind: str  #: ComfyUI's ``type``: ``output``, ``temp`` or ``input``.
    seed: int
    group_id: str = ""
    job_id: str = ""
    attempt: int = 0
    digest: str = ""  #: Identifies the file, see ``jobgroups.domain.outputs``.
    #: Whether a later job is known to have written another file of this name.
    replaced: bool = False
    ambiguous: bool = False
    ended_at: dt.datetime | None = None  #: The latest end of the job that wrote it.
    ended_by_backend: bool = False  #: Whether that is the backend's clock.
    stored: StoredFile | None = None  #: Its copy; None: the storage has none.
    saved_as: str = ""  #: Its relative path in a zip, or the name under which a browser saves it.

    @property
    def identity(self) -> str:
        """Names the content, 64 hex digits.

        The prompt is part of it: ComfyUI gives the name of a removed file to another picture
        (comfyui-protocol.md, trap 9).
        """
        parts = [self.backend_id, self.prompt_id, self.filename, self.kind, self.subfolder]
        if self.ambiguous:
            parts.append(REPLACED)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def child_output(group_id: str, job_id: str, number: int) -> OutputFile:
    """Return a child's file by its number: images first, then the other keys in ComfyUI's order.

    Raises ``GroupNotFound`` or ``ChildNotFound``, or ``OutputNotFound`` if the child reported fewer
    files.
    """
    children = ChildJob.objects.filter(pk=job_id, group_id=group_id)
    child = children.select_related("current_attempt").first()
    if child is None:
        raise no_child(group_id, job_id)
    files = _Files(child, Backend.objects.filter(pk=child.backend_id).first())
    if not 0 <= number < len(files.items):
        raise OutputNotFound(job_id, number, len(files.items))
    capture = child.captures.filter(number=number).select_related("file").first()
    saved_as = default_name(child.seed, child.backend_id or "", files.items[number]["filename"])
    return files.get(number, capture.file if capture else None, saved_as=saved_as)


def no_child(group_id: str, job_id: str) -> RequestError:
    """Return the error of a job that a group does not have, or of a group that does not exist."""
    exists = JobGroup.objects.filter(pk=group_id).exists()
    return ChildNotFound(job_id) if exists else GroupNotFound(group_id)


def job_file(
    children: QuerySet[ChildJob], job_id: str, item: Mapping[str, str]
) -> tuple[OutputFile | None, bool]:
    """Return the file of a job by its name at the backend, and whether the job may still report
    files.

    Args:
        children: the jobs that are searched.
        item: ``filename``, ``subfolder`` and ``type`` as ComfyUI has them.
    """
    child = children.filter(pk=job_id).select_related("current_attempt").first()
    if child is None:
        return None, False
    wanted = file_digest("", item)
    files = _Files(child, Backend.objects.filter(pk=child.backend_id).first())
    for number, reported in enumerate(files.items):
        if file_digest("", reported) == wanted:
            capture = child.captures.filter(number=number).select_related("file").first()
            return files.get(number, capture.file if capture else None), False
    attempts = list(child.attempts.order_by("-number"))
    for attempt in attempts:
        if wanted in digests("", json.loads(attempt.node_outputs_json), ()):
            return _file_of(attempt, child, item), False
    return None, any(attempt.ended_at is None for attempt in attempts)


def reported_image(children: QuerySet[ChildJob], image_id: str) -> tuple[OutputFile | None, bool]:
    """Return an image that Krita's nodes keep at a backend, by the id that a job has reported, and
    whether one of the jobs may still report it. Its file is named by the id.
    """
    attempts = Attempt.objects.filter(child__in=children).order_by("-id").select_related("child")
    quoted = json.dumps(image_id)
    for attempt in attempts.filter(node_outputs_json__contains=quoted)[:1]:
        item = {"filename": image_id, "subfolder": "", "type": "output"}
        return _file_of(attempt, attempt.child, item), False
    return None, attempts.filter(ended_at__isnull=True).exists()


def _file_of(attempt: Attempt, child: ChildJob, item: Mapping[str, str]) -> OutputFile:
    """Return a file that an attempt has reported, at its backend."""
    backend = Backend.objects.filter(pk=attempt.backend_id).first()
    return OutputFile(
        backend_id=attempt.backend_id,
        backend_name=attempt.backend_id if backend is None else backend.name,
        url="" if backend is None else backend.url,
        headers={} if backend is None else dict(backend.headers),
        prompt_id=attempt.prompt_id,
        filename=item["filename"],
        subfolder=item["subfolder"],
        kind=item["type"],
        seed=child.seed,
        group_id=child.group_id,
        job_id=child.id,
        attempt=attempt.number,
        digest=file_digest(attempt.backend_id, item),
        ended_at=attempt.backend_ended_at or attempt.ended_at,
        ended_by_backend=attempt.backend_ended_at is not None,
        saved_as=item["filename"],
    )


def group_outputs(group_id: str, *, starred: bool, template: Template) -> list[OutputFile]:
    """Return every file of a group (or of its starred children) that may be had, child by child.

    Raises ``GroupNotFound``, or ``TemplateInvalid`` if the template has a name that none of the
    files has.
    """
    stored_metadata = (
        JobGroup.objects.filter(pk=group_id).values_list("metadata_json", flat=True).first()
    )
    if stored_metadata is None:
        raise GroupNotFound(group_id)
    metadata, names = json.loads(stored_metadata), FileNames(template)
    children = ChildJob.objects.filter(group_id=group_id, outputs_json__isnull=False)
    if starred:
        children = children.filter(starred=True)
    backends = Backend.objects.in_bulk()
    stored = _copies(child__group=group_id)
    files_of_group = []
    for child in children.select_related("current_attempt").order_by("position"):
        files = _Files(child, backends.get(child.backend_id or ""))
        for number, item in enumerate(files.items):
            # Also of files that are not in the zip: clients name those too.
            name = names.of(_facts(child, number, item["filename"], metadata))
            if child.backend_id in backends or (child.pk, number) in stored:
                files_of_group.append(
                    files.get(number, stored.get((child.pk, number)), saved_as=str(name))
                )
    names.check()
    return files_of_group


def chosen_outputs(chosen: Sequence[tuple[str, int]], principal: Principal) -> list[OutputFile]:
    """Return the files by job and number, in their order.

    Raises ``ChildNotFound`` for a job that a principal does not see, and ``OutputNotFound``.
    """
    children = ChildJob.objects.filter(visible(principal, "group")).select_related(
        "current_attempt"
    )
    children_by_id = children.in_bulk({job_id for job_id, _ in chosen})
    stored = _copies(child__in=children_by_id)
    backends, names = Backend.objects.in_bulk(), FileNames(Template(DEFAULT_TEMPLATE))
    chosen_files = []
    for job_id, number in chosen:
        if (child := children_by_id.get(job_id)) is None:
            raise ChildNotFound(job_id)
        files = _Files(child, backends.get(child.backend_id or ""))
        if number >= len(files.items):
            raise OutputNotFound(job_id, number, len(files.items))
        name = names.of(_facts(child, number, files.items[number]["filename"], {}))
        chosen_files.append(files.get(number, stored.get((job_id, number)), saved_as=str(name)))
    return chosen_files


def first_pictures(
    group_id: str, positions: Collection[int]
) -> list[tuple[ChildJob, OutputFile | None]]:
    """Return the children at these positions of a group, each with its first image or video, None
    without one.
    """
    children = ChildJob.objects.filter(group_id=group_id, position__in=positions).select_related(
        "current_attempt"
    )
    stored = _copies(child__in=children.order_by())
    backends = Backend.objects.in_bulk()
    pictures_of_children = []
    for child in children:
        files = _Files(child, backends.get(child.backend_id or ""))
        pictures = (
            at
            for at, item in enumerate(files.items)
            if media_kind(item["filename"]) in ("image", "video")
        )
        number = next(pictures, None)
        pictures_of_children.append(
            (child, None if number is None else files.get(number, stored.get((child.pk, number))))
        )
    return pictures_of_children


def _copies(**of: Any) -> dict[tuple[str, int], StoredFile | None]:
    """Return the copies of outputs in the storage, by child and number."""
    captures = Capture.objects.filter(file__isnull=False, **of).select_related("file")
    return {(capture.child_id, capture.number): capture.file for capture in captures}


def _facts(
    child: ChildJob, number: int, filename: str, group_metadata: dict[str, Any]
) -> dict[str, Any]:
    return facts(
        index=child.position + 1,
        number=number + 1,
        seed=child.seed,
        backend=child.backend_id,
        name=filename,
        job=child.pk,
        group=child.group_id,
        metadata=json.loads(child.metadata_json or "{}"),
        variation=json.loads(child.variation_json or "{}"),
        group_metadata=group_metadata,
    )


def known_files(group_id: str, positions: Collection[int]) -> dict[str, dict[int, tuple[Any, ...]]]:
    """Return the ``FILE_FIELDS`` of the outputs of the children at these positions of a group, by
    child id and number.

    Those of children between them may be among them.
    """
    if not positions:
        return {}
    first, last = min(positions), max(positions)
    spans = [(first, last)]
    if last - first > _FAR * len(positions):
        spans = [(position, position) for position in positions]
    return _by_child(
        row for first, last in spans for row in _known_files(group_id, first=first, last=last)
    )


_FAR: Final = 20  #: Children between two above which two queries take less time than one.
_OF_CAPTURE: Final = {"node_id": "node_id", "capture_warning": "reason"}
_FACTS: Final = (
    "child_id",
    "number",
    *(_OF_CAPTURE.get(name, f"file__{name}") for name in FILE_FIELDS),
)
_known_files: Final = PreparedValues(
    lambda: (
        Capture.objects.filter(child__group=KEY)
        .filter(child__position__gte=Parameter("first"), child__position__lte=Parameter("last"))
        .order_by()
        .values_list(*_FACTS)
    )
)


def known_files_of(job_ids: Collection[str]) -> dict[str, dict[int, tuple[Any, ...]]]:
    """Return the ``FILE_FIELDS`` of the outputs of some children, by child id and number."""
    rows = Capture.objects.filter(child__in=job_ids).order_by().values_list(*_FACTS)
    return _by_child(rows)


def _by_child(rows: Iterable[tuple[Any, ...]]) -> dict[str, dict[int, tuple[Any, ...]]]:
    files: dict[str, dict[int, tuple[Any, ...]]] = {}
    for child_id, number, *fields in rows:
        files.setdefault(child_id, {})[number] = tuple(fields)
    return files


def due_backends(*, runner: str | None) -> list[str]:
    """Return the backends with due captures that no other runner leases. A disabled backend has no
    lease.

    A runner leaves all of them to the processes of `files` while one is alive; ``None``: for these.
    """
    leased: set[str] = set()
    if runner is not None:
        if files_process_alive():
            return []
        leases = Lease.objects.filter(expires_at__gt=database_now()).exclude(
            runner__in=("", runner)
        )
        leased = set(leases.values_list("backend_id", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(_DUE_BACKENDS, [connection.ops.adapt_datetimefield_value(now())])
        return [backend_id for (backend_id,) in cursor.fetchall() if backend_id not in leased]


_CAPTURES: Final = Capture._meta.db_table
#: A step in the index for each backend: ``DISTINCT`` would read every row that is due.
_DUE_BACKENDS: Final = f"""
WITH RECURSIVE backends(id) AS (
    SELECT min(backend_id) FROM {_CAPTURES} WHERE due_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(backend_id) FROM {_CAPTURES} WHERE due_at IS NOT NULL AND backend_id > backends.id)
    FROM backends WHERE id IS NOT NULL
)
SELECT id FROM backends WHERE EXISTS (SELECT 1 FROM {_CAPTURES} WHERE backend_id = backends.id AND due_at <= %s)
"""  # noqa: S608 no input in it


def oldest_due_capture() -> tuple[float, str] | None:
    """Return for how many seconds the oldest due capture has been due, and the name of its
    backend; None if none is due.
    """
    moment = now()
    oldest = Capture.objects.filter(due_at__lte=moment).order_by("due_at").first()
    if oldest is None or oldest.due_at is None:
        return None
    return (moment - oldest.due_at).total_seconds(), name_of(oldest.backend_id)


def failed_captures() -> int:
    """Return how many captures have failed and are tried again later."""
    return Capture.objects.filter(due_at__gt=now(), tries__gt=0).count()


def due_captures(
    *, backend_ids: Collection[str], limit: int
) -> dict[str, list[tuple[int, OutputFile]]]:
    """Return the oldest due captures of each backend, at most so many, for a runner."""
    if files_process_alive():
        return {}
    moment = now()
    return _located_captures(
        row for backend_id in backend_ids for row in _due(limit)(backend_id, moment=moment)
    )


def unhashed_files(*, runner: str | None, after: str, limit: int) -> list[StoredFile]:
    """Return files without SHA-256 whose keys are behind ``after``, in their order.

    A runner leaves them to the processes of `files` while one is alive.
    """
    if runner is not None and files_process_alive():
        return []
    return list(StoredFile.objects.filter(sha256="", pk__gt=after).order_by("pk")[:limit])


def claimed_captures(ids: Collection[int]) -> dict[str, list[tuple[int, OutputFile]]]:
    return _located_captures(read(_captures, ids))


@cache
def _captures(size: int) -> PreparedQuery[Capture]:
    rows = Capture.objects.select_related("child__current_attempt")
    return PreparedQuery(lambda: rows.filter(pk__in=places(size)))


@cache
def _backends(size: int) -> PreparedQuery[Backend]:
    return PreparedQuery(
        lambda: (
            Backend.objects.filter(pk__in=places(size)).only("name", "url", "headers").order_by()
        )
    )


def _located_captures(rows: Iterable[Capture]) -> dict[str, list[tuple[int, OutputFile]]]:
    captures_by_backend: dict[str, list[Capture]] = defaultdict(list)
    for row in rows:
        captures_by_backend[row.backend_id].append(row)
    backends = {row.id: row for row in read(_backends, captures_by_backend)}
    return {
        backend_id: [
            (row.pk, _Files(row.child, backends.get(backend_id)).get(row.number, None))
            for row in some
        ]
        for backend_id, some in captures_by_backend.items()
    }


def stored_captures(*, group_id: str | None = None) -> Iterator[tuple[int, OutputFile, StoredFile]]:
    """Yield ids, files and copies of the captures of completed children that are stored, of one
    group or of all.

    Without the pictures that came as frames: no backend has a file of them.
    """
    stored = Capture.objects.filter(file__isnull=False, child__status=ChildStatus.COMPLETED)
    rows = stored.select_related("file", "child__current_attempt").order_by("pk")
    if group_id is not None:
        rows = rows.filter(child__group=group_id)
    backends, last = Backend.objects.in_bulk(), 0
    while captures := list(rows.filter(pk__gt=last)[:_AT_ONCE]):
        last = captures[-1].pk
        for row in captures:
            file = _Files(row.child, backends.get(row.backend_id)).get(row.number, row.file)
            if file.stored is not None and file.kind != SENT:
                yield row.pk, file, file.stored


def was_written_last(file: OutputFile) -> bool:
    """Return whether the attempt that completed a child executed the node of its file, and no later
    one wrote the file.
    """
    rows = ReportedFile.objects.filter(
        attempt__child=file.job_id, attempt=F("attempt__child__current_attempt")
    )
    return rows.filter(digest=file.digest, executed=True).exists()


@cache
def _due(limit: int) -> PreparedQuery[Capture]:
    due = Capture.objects.filter(backend=KEY, due_at__lte=Parameter("moment")).order_by("due_at")
    return PreparedQuery(lambda: due.select_related("child__current_attempt")[:limit])


class _Files:
    """The files that a child reported."""

    def __init__(self, child: ChildJob, backend: Backend | None) -> None:
        self._child, self._backend = child, backend
        self._outputs: dict[str, Any] = json.loads(child.outputs_json or "{}")
        self.items = list(reported_files(self._outputs))

    def get(self, number: int, stored: StoredFile | None, *, saved_as: str = "") -> OutputFile:
        child, backend, item = self._child, self._backend, self.items[number]
        attempt = child.current_attempt
        by_backend = None if attempt is None else attempt.backend_ended_at
        replaced = item.get("reason") == REPLACED
        return OutputFile(
            backend_id=child.backend_id or "",
            backend_name=(child.backend_id or "") if backend is None else backend.name,
            url="" if backend is None else backend.url,
            headers={} if backend is None else dict(backend.headers),
            prompt_id=str(self._outputs.get("prompt_id", "")),
            filename=item["filename"],
            subfolder=str(item.get("subfolder", "")),
            kind=str(item.get("type", "output")),
            seed=child.seed,
            group_id=child.group_id,
            job_id=child.id,
            attempt=0 if attempt is None else attempt.number,
            digest=file_digest(child.backend_id or "", item),
            replaced=replaced,
            ambiguous=replaced and sum(other.get("url") == item["url"] for other in self.items) > 1,
            ended_at=by_backend or child.completed_at,
            ended_by_backend=by_backend is not None,
            stored=None if item.get("missing") else stored,
            saved_as=saved_as,
        )
