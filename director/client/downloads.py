"""Downloads the files of jobs from their addresses."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urljoin

from director.client import calls
from director.client.errors import NotFound, UnexpectedAnswer, Unreachable, error_from_answer
from director.client.events import ChildCompleted
from director.client.file_writer import AtomicFile, relative_path
from director.client.groups import Child, Group, OutputFile
from director.client.wire import Answer, Wire

logger = logging.getLogger(__name__)

Downloadable: TypeAlias = OutputFile | Child | ChildCompleted | Group


async def download(wire: Wire, base_url: str, source: Downloadable, folder: Path, template: str) -> tuple[Path, ...]:
    """Save every file of ``source`` below ``folder``; return the paths in order.

    Args:
        base_url: The Director's address, for urls that are relative to it.

    Raises:
        TypeError: ``source`` has no files.
        NotFound: The file is missing at its backend.
        DirectorError: The file could not be downloaded.
        OSError: The file could not be written.
    """
    targets = [(file, folder / relative_path(file, template)) for file in _files(source)]
    paths = [await _save(wire, _address(base_url, file), target) for file, target in targets]
    return tuple(paths)


def _files(source: object) -> Iterator[OutputFile]:
    """Yield the files to download: a single ``OutputFile`` always, of others those that are not missing."""
    match source:
        case OutputFile():
            yield source
        case ChildCompleted():
            yield from _existing(source.outputs.files)
        case Child() | Group():
            yield from _existing(source.files)
        case _:
            raise TypeError(
                f"download() takes an OutputFile, a Child, a ChildCompleted or a Group, not {type(source).__name__}."
            )


def _existing(files: Iterable[OutputFile]) -> Iterator[OutputFile]:
    for file in files:
        if file.missing:
            logger.warning("Not downloaded: %s", file.why_missing)
        else:
            yield file


def _address(base_url: str, file: OutputFile) -> str:
    if file.missing:
        raise NotFound(file.why_missing)
    if file.url is None:
        raise NotFound(f"{file.filename} has no address.")
    try:
        return urljoin(f"{base_url}/", file.url)
    except ValueError as error:
        raise UnexpectedAnswer(f"{file.url!r} is no address of a file.") from error


async def _save(wire: Wire, url: str, target: Path) -> Path:
    """Save one file, from the start again if the connection is lost."""
    for delay in calls.RETRY_DELAYS_S:
        try:
            return await _save_once(wire, url, target)
        except Unreachable:
            await wire.sleep(delay)
    return await _save_once(wire, url, target)


async def _save_once(wire: Wire, url: str, target: Path) -> Path:
    with AtomicFile(target) as file:
        result = await wire.save(url, file)
    if isinstance(result, Answer):
        raise error_from_answer(result.status, result.content)
    return result
