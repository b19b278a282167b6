"""Downloads the files of jobs: captured ones from the Director, others from their addresses."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urljoin

from director.client import calls
from director.client.errors import NotFound, UnexpectedAnswer
from director.client.events import ChildCompleted
from director.client.file_writer import AtomicFile, relative_path
from director.client.groups import Child, Group, OutputFile
from director.client.wire import Wire

logger = logging.getLogger(__name__)

Downloadable: TypeAlias = OutputFile | Child | ChildCompleted | Group


async def download(wire: Wire, base_url: str, source: Downloadable, folder: Path, template: str) -> tuple[Path, ...]:
    """Save every file of ``source`` below ``folder``; return the paths in order.

    Addresses of files may be relative to ``base_url``, the Director's. For the errors see ``Director.download``.
    """
    targets = [(file, folder / relative_path(file, template)) for file in _files(source)]
    paths = [await _save(wire, _address(base_url, file), target) for file, target in targets]
    return tuple(paths)


def _files(source: object) -> Iterator[OutputFile]:
    """Yield the files to download: a single ``OutputFile`` always, of others those that are not missing."""
    match source:
        case OutputFile():
            yield source
            return
        case ChildCompleted():
            found = source.outputs.files
        case Child() | Group():
            found = source.files
        case _:
            raise TypeError(
                f"download() takes an OutputFile, a Child, a ChildCompleted or a Group, not {type(source).__name__}."
            )
    for file in found:
        if file.missing:
            logger.warning("Not downloaded: %s", file.why_missing)
        else:
            yield file


def _address(base_url: str, file: OutputFile) -> str:
    if file.missing:
        raise NotFound(file.why_missing)
    # Below the Director's address, which may have a path.
    url = file.file_url.lstrip("/") if file.captured and file.file_url else file.url
    if url is None:
        raise NotFound(f"{file.filename} has no address.")
    try:
        return urljoin(f"{base_url}/", url)
    except ValueError as error:
        raise UnexpectedAnswer(f"{url!r} is no address of a file.") from error


async def _save(wire: Wire, url: str, target: Path) -> Path:
    """Save one file, from the start again if the connection is lost."""

    async def save() -> Path:
        with AtomicFile(target) as file:
            return await wire.save(url, file)

    return await calls.repeated(wire, save)
