"""Fetching what children made from where it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urljoin

from director.client.calls import RETRY_DELAYS_S
from director.client.errors import NotFound, UnexpectedAnswer, Unreachable, error_from_answer
from director.client.events import ChildCompleted
from director.client.file_writer import Landing, relative_path
from director.client.groups import Child, Group, OutputFile
from director.client.steps import Answer, Flow, Pause, Save

logger = logging.getLogger(__name__)

Downloadable: TypeAlias = OutputFile | Child | ChildCompleted | Group


def _files(source: object) -> Iterator[OutputFile]:
    """Yield the files to fetch: one that is asked for itself, else those that still exist.

    Those that do not are named in the log.

    Raises:
        TypeError: It is nothing that has files.
    """
    match source:
        case OutputFile():
            yield source
        case ChildCompleted():
            yield from _existing(source.outputs.files)
        case Child() | Group():
            yield from _existing(source.files)
        case _:
            raise TypeError(
                "download() takes an OutputFile, a Child, a ChildCompleted or a Group,"
                f" not {type(source).__name__}."
            )


def _existing(files: Iterable[OutputFile]) -> Iterator[OutputFile]:
    for file in files:
        if file.missing:
            logger.warning("Not downloaded: %s", file.why_missing)
        else:
            yield file


def download(base_url: str, source: Downloadable, folder: Path, template: str) -> Flow[list[Path]]:
    """Save every file of ``source`` below ``folder``; return the paths in order.

    Args:
        base_url: The Director's address, for urls that are relative to it.

    Raises:
        TypeError: ``source`` is nothing that has files.
        NotFound: The file is gone.
        DirectorError: It could not be fetched.
        OSError: It could not be written.
    """
    return (yield from _saved(base_url, list(_files(source)), folder, template))


def _saved(base_url: str, files: list[OutputFile], folder: Path, template: str) -> Flow[list[Path]]:
    targets = [folder / relative_path(file, template) for file in files]
    paths: list[Path] = []
    for file, target in zip(files, targets, strict=True):
        paths.append((yield from _fetched(_address(base_url, file), target)))
    return paths


def _address(base_url: str, file: OutputFile) -> str:
    if file.missing:
        raise NotFound(file.why_missing)
    if file.url is None:
        raise NotFound(f"{file.filename} has no address.")
    try:
        return urljoin(f"{base_url}/", file.url)
    except ValueError as error:
        raise UnexpectedAnswer(f"{file.url!r} is no address of a file.") from error


def _fetched(url: str, target: Path) -> Flow[Path]:
    """Save one file, from the start again if the connection breaks in the middle."""
    for delay in RETRY_DELAYS_S:
        try:
            return (yield from _fetched_once(url, target))
        except Unreachable:
            yield Pause(delay)
    return (yield from _fetched_once(url, target))


def _fetched_once(url: str, target: Path) -> Flow[Path]:
    with Landing(target) as landing:
        result: Path | Answer = yield Save(url, landing)
    if isinstance(result, Answer):
        raise error_from_answer(result.status, result.content)
    return result
