"""Downloads the files of jobs: captured ones from the Director, others from their addresses."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urljoin

import httpx

from director.client import calls, requests
from director.client.decode import build
from director.client.errors import NotFound, UnexpectedAnswer
from director.client.events import ChildCompleted
from director.client.file_writer import AtomicFile
from director.client.groups import Child, Group, OutputFile
from director.client.requests import Request
from director.client.wire import Wire
from jobgroups.domain.file_names import FileName, FileNames, Template, facts
from jobgroups.domain.shapes.groups import ListedOutput

logger = logging.getLogger(__name__)

_SHEET_TIMEOUT: Final = 60.0  #: Seconds: the thumbnails are made first.

Downloadable: TypeAlias = OutputFile | ListedOutput | Child | ChildCompleted | Group


async def download(
    wire: Wire, base_url: str, source: Downloadable, folder: Path, name: str | FileName
) -> tuple[Path, ...]:
    """Save every file of ``source`` below ``folder``; return the paths in order.

    Addresses of files may be relative to ``base_url``, the Director's. For the errors see
    ``Director.download``.
    """
    files = _files(source)
    # Missing files are named too, as in the zip.
    named = [name] if isinstance(name, FileName) else names_of(files, name)
    paths = []
    for file, target in zip(files, named, strict=True):
        if file.missing and file is not source:
            logger.warning("Not downloaded: %s", file.why_missing)
        else:
            paths.append(await _save(wire, _address(base_url, file), folder, target))
    return tuple(paths)


async def sheet(wire: Wire, group_id: str, path: Path, axes: Sequence[str]) -> tuple[Path, ...]:
    """Save every page of a contact sheet; return the paths. For the errors see ``Director.sheet``."""
    paths: list[Path] = []
    count = 1
    while len(paths) < count:
        number = len(paths) + 1
        query = {"axes": ",".join(axes), "page": number}
        request = requests.get("job-groups", group_id, "sheet.webp", **query)

        async def page(request: Request = request) -> httpx.Response:
            return calls.success(await wire.send(request, _SHEET_TIMEOUT))

        answer = await calls.repeat(wire, page)
        count = int(answer.headers.get("x-sheet-pages", "1"))
        paths.append(path if number == 1 else path.with_stem(f"{path.stem}_{number}"))
        await wire.in_thread(partial(Path.write_bytes, data=answer.content), paths[-1])
    return tuple(paths)


def file_of(output: ListedOutput) -> OutputFile:
    """Return an output of the list as the answer about its group has it."""
    return build(OutputFile, {**output.raw, "number": output.number + 1, "raw": output.raw})


def facts_of(file: OutputFile) -> dict[str, Any]:
    """Return what a template of names can contain of a file."""
    return facts(
        index=file.index,
        number=file.number,
        seed=file.seed,
        backend=file.backend_id,
        name=file.filename,
        job=file.job_id,
        group=file.job_group_id,
        metadata=file.metadata,
        variation=file.variation,
        group_metadata=file.group_metadata,
    )


def names_of(files: Sequence[OutputFile], template: str) -> list[FileName]:
    """Return the name of each file of one download; raise ``ValueError`` as ``Director.download``
    does.
    """
    names = FileNames(Template(template))
    file_names = [names.of(facts_of(file)) for file in files]
    # A file of an event lacks the metadata: a name that it lacks may be one of them.
    if not any(file.group_metadata is None for file in files):
        names.check()
    return file_names


def _files(source: object) -> Sequence[OutputFile]:
    match source:
        case OutputFile():
            return (source,)
        case ListedOutput():
            return (file_of(source),)
        case ChildCompleted():
            return source.outputs.files
        case Child() | Group():
            return source.files
        case _:
            raise TypeError(
                "download() takes an OutputFile, a ListedOutput, a Child, a ChildCompleted or a Group, not "
                f"{type(source).__name__}."
            )


def _address(base_url: str, file: OutputFile) -> str:
    if file.missing:
        raise NotFound(file.why_missing)
    url = file.file_url if file.captured and file.file_url else file.url
    if url is None:
        raise NotFound(f"{file.filename} has no address.")
    try:
        # One without a host is below the Director's address, which may have a path.
        return urljoin(f"{base_url}/", url.lstrip("/"))
    except ValueError as error:
        raise UnexpectedAnswer(f"{url!r} is no address of a file.") from error


async def _save(wire: Wire, url: str, folder: Path, name: FileName) -> Path:
    """Save one file, from the start again if the connection is lost."""

    async def save() -> Path:
        with AtomicFile(folder, name) as file:
            return await wire.save(url, file)

    return await calls.repeat(wire, save)
