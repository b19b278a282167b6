"""Files of children, fetched through the Director: it reaches the backends, this machine need not."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from director.cli.exit_status import CommandError, Status, usage_error
from director.client import Director, DirectorError, OutputFile, Outputs
from director.client.file_writer import DEFAULT_TEMPLATE, relative_path

#: Sorted by name, files are in the order of the group's jobs.
DEFAULT_NAME: Final = f"{{index}}_{DEFAULT_TEMPLATE}"
#: HTTP status of a file that its backend does not have any more.
_GONE: Final = 410
#: Files on their way at the same time.
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """Where files go, None for nowhere, and how they are named.

    Made before anything is rendered: what could not be saved afterwards is refused.

    Raises:
        CommandError: the folder cannot be made or written, or the template is wrong.
    """

    folder: Path | None
    name: str

    def __post_init__(self) -> None:
        try:
            relative_path(OutputFile(filename="a.png"), self.name)
        except ValueError as error:
            raise usage_error(f"--name: {error}") from None
        if self.folder is None:
            return
        does = "made"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            does = "written"
            with tempfile.TemporaryFile(dir=self.folder, prefix=".writable-"):
                pass
        except OSError as error:
            why = error.strerror or error
            raise usage_error(f"The folder {self.folder} cannot be {does}: {why}.") from None


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A file that is not there, in a sentence; and whether another try may help."""

    sentence: str
    may_help: bool = True


class Downloader:
    """Saves files while something else is watched. A context manager: leaving it waits for all.

    Args:
        director: connection for the files; may be shared by threads.
        folder: made if it is not there.
        name: template of the names.
        saved: called with a job's id and the path of each file that lies there, from a thread.
    """

    def __init__(
        self, director: Director, folder: Path, name: str, saved: Callable[[str, Path], None]
    ) -> None:
        self._director = director
        self._folder = folder
        self._name = name
        self._saved = saved
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="save")
        self._jobs: set[str] = set()
        self._indexes: dict[str, int] = {}
        self._coming: list[Future[None]] = []
        self.missing: list[Unsaved] = []

    def __enter__(self) -> Downloader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def number(self, job_ids: Iterable[str]) -> None:
        """Store the order of the group's jobs, which names of files may have as ``{index}``."""
        self._indexes = {job_id: index for index, job_id in enumerate(job_ids, 1)}

    def download(self, group_id: str, job_id: str, outputs: Outputs | None) -> None:
        """Fetch what a completed child made, unless that was done before."""
        if job_id in self._jobs or outputs is None:
            return
        self._jobs.add(job_id)
        for file in _through_director(group_id, job_id, outputs):
            if file.missing:
                self.missing.append(Unsaved(f"Not saved: {file.why_missing}", may_help=False))
                continue
            numbered = dataclasses.replace(file, index=self._indexes.get(job_id))
            self._coming.append(self._pool.submit(self._save, job_id, numbered))

    def finish(self) -> list[Unsaved]:
        """Wait for every file; return those that could not be saved.

        Raises:
            OSError: no_backends_error can be told what was saved.
        """
        for one in self._coming:
            one.result()
        return self.missing

    def _save(self, job_id: str, file: OutputFile) -> None:
        try:
            paths = self._fetched(file)
        except (DirectorError, OSError) as error:
            said = f"{file.filename} of {file.backend_id} was not saved: {error}"
            gone = isinstance(error, DirectorError) and error.status == _GONE
            self.missing.append(Unsaved(said, may_help=not gone))
            return
        # What goes wrong here is the output's matter: the file is saved.
        for path in paths:
            self._saved(job_id, path)

    def _fetched(self, file: OutputFile) -> tuple[Path, ...]:
        try:
            return self._director.download(file, self._folder, self._name)
        except DirectorError as error:
            direct = file.raw.get("url")
            if error.status != 307 or not isinstance(direct, str):
                raise
        # Too long to be carried by the Director, which sends its clients to the backend.
        return self._director.download(
            dataclasses.replace(file, url=direct), self._folder, self._name
        )


def _through_director(group_id: str, job_id: str, outputs: Outputs) -> Iterator[OutputFile]:
    """Yield the files with the Director's own address for each (docs/api.md)."""
    # Numbered as the API numbers them: images first, then the other keys in their order.
    located = (file for file in outputs.files if file.url is not None)
    files = sorted(located, key=lambda file: file.kind != "images")
    for number, file in enumerate(files):
        url = f"api/job-groups/{group_id}/jobs/{job_id}/outputs/{number}"
        yield dataclasses.replace(file, url=url)


def failed_to_save(
    missing: list[Unsaved], group_id: str, download_options: DownloadOptions
) -> CommandError:
    """Return the failure of files that are not all there, with the command that may get more of them."""
    again = ["director", "save", group_id, "--to", str(download_options.folder)]
    if download_options.name != DEFAULT_NAME:
        again += ["--name", download_options.name]
    hint = f"Try again: {shlex.join(again)}" if any(one.may_help for one in missing) else ""
    return CommandError("\n".join(one.sentence for one in missing), Status.FAILED, hint=hint)
