"""Downloads the files of jobs through the Director: it reaches the backends, this host need not."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, Final

import click

from director.cli import option_types
from director.cli.exit_status import CommandError, Status, usable, usage_error
from director.client import Director, DirectorError, Group, ListedOutput, OutputFile, Outputs
from director.client.downloads import facts_of, file_of
from jobgroups.domain.file_names import (
    DEFAULT_TEMPLATE,
    FileName,
    FileNames,
    Template,
    TemplateInvalid,
    facts,
)

#: File names sort in the order of the group's jobs.
DEFAULT_NAME: Final = f"{{index}}_{DEFAULT_TEMPLATE}"

save_option: Final = click.option(
    "--save",
    "folder",
    type=option_types.folder,
    metavar="DIR",
    help="Watch, and save each file there when its job completes.",
)


def name_option(
    also: str = "{number}, {job}, {group}, metadata and varied inputs, such as {cfg:.1f}.",
) -> Callable[[Any], Any]:
    return click.option(
        "--name",
        "file_name",
        default=DEFAULT_NAME,
        show_default=True,
        help=f"Names of saved files; also of {also}",
    )


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """Folder of the files, None for no downloads, and the template of their names.

    Created before the submission, so that nothing runs whose files could not be saved. Raises
    ``CommandError`` if the folder cannot be created or written, or the template is wrong: has a
    name that is not ``known``, if that is not None.
    """

    folder: Path | None
    name: str
    known: InitVar[Iterable[str] | None] = None

    def __post_init__(self, known: Iterable[str] | None) -> None:
        _template(self.name, known)
        if self.folder is None:
            return
        name = f"The folder {self.folder}"
        with usable(name, "created"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with usable(name, "written"), tempfile.TemporaryFile(dir=self.folder, prefix=".writable-"):
            pass


def _template(name: str, known: Iterable[str] | None = None) -> Template:
    try:
        template = Template(name)
        if known is not None:
            template.check(known)
    except TemplateInvalid as error:
        raise usage_error(f"--name: {error}") from None
    return template


@dataclass(frozen=True, slots=True)
class Unsaved:
    """Why a file was not saved, as a sentence; and whether a repetition may help."""

    sentence: str
    may_help: bool = True


class Downloader:
    """Saves files in threads, in a folder that is created. A context manager: leaving it waits for
    all downloads.

    ``on_saved`` is called with the job's id and the path of each saved file, in a thread.
    """

    def __init__(
        self, director: Director, options: DownloadOptions, on_saved: Callable[[str, Path], None]
    ) -> None:
        self._director = director
        self._folder = options.folder or Path()
        self._template = options.name
        self._names = FileNames(Template(options.name))
        self._on_saved = on_saved
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="save")
        self._jobs: set[str] = set()
        self._of_job: dict[str, Mapping[str, Any]] = {}
        self._futures: list[Future[None]] = []
        self.missing: list[Unsaved] = []

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def download_all(self, group: Group) -> None:
        """Download the files of all completed jobs of a group; keep what names may contain of the
        group and each job.

        Raises ``CommandError`` if the template has a name that no job has.
        """
        of_group = {"job_group_id": group.job_group_id, "group_metadata": group.metadata}
        self._of_job = {
            child.job_id: {
                **of_group,
                "index": index,
                "variation": child.variation,
                "metadata": child.metadata,
            }
            for index, child in enumerate(group.child_jobs, 1)
        }
        if self._of_job:
            own = (
                facts(variation=child.variation, metadata=child.metadata)
                for child in group.child_jobs
            )
            _template(self._template, {*group.metadata, *itertools.chain(*own)})
        for child in group.child_jobs:
            self.download(group.job_group_id, child.job_id, child.outputs)

    def download(self, group_id: str, job_id: str, outputs: Outputs | None) -> None:
        """Download the files of a completed job, once."""
        if job_id in self._jobs or outputs is None:
            return
        self._jobs.add(job_id)
        for reported in outputs.files:
            if reported.number is None:
                continue
            # The Director's own address (docs/api.md).
            url = f"api/job-groups/{group_id}/jobs/{job_id}/outputs/{reported.number - 1}"
            file = dataclasses.replace(reported, url=url, **self._of_job.get(job_id, {}))
            self._start(job_id, file)

    def download_listed(self, output: ListedOutput) -> None:
        """Download one file of the list of outputs."""
        self._start(output.job_id, dataclasses.replace(file_of(output), url=output.file_url))

    def _start(self, job_id: str, file: OutputFile) -> None:
        name = self._names.of(facts_of(file))
        if file.missing:
            self.missing.append(Unsaved(f"Not saved: {file.why_missing}", may_help=False))
        else:
            self._futures.append(self._pool.submit(self._save, job_id, file, name))

    def finish(self) -> list[Unsaved]:
        """Wait for every file; return those that could not be saved. An ``OSError`` of ``on_saved``
        is raised.
        """
        for future in self._futures:
            future.result()
        return self.missing

    def _save(self, job_id: str, file: OutputFile, name: FileName) -> None:
        try:
            paths = self._paths(file, name)
        except (DirectorError, OSError) as error:
            sentence = f"{file.filename} of job {file.index or file.job_id} was not saved: {error}"
            is_gone = isinstance(error, DirectorError) and error.status == 410
            self.missing.append(Unsaved(sentence, may_help=not is_gone))
            return
        # An error from here on concerns the output: the file is saved.
        for path in paths:
            self._on_saved(job_id, path)

    def _paths(self, file: OutputFile, name: FileName) -> tuple[Path, ...]:
        try:
            return self._director.download(file, self._folder, name)
        except DirectorError as error:
            direct = file.raw.get("url")
            if error.status != 307 or not isinstance(direct, str):
                raise
        # Above the Director's limit, which redirects clients to the backend.
        file = dataclasses.replace(file, url=direct)
        return self._director.download(file, self._folder, name)


def failed_to_save(missing: list[Unsaved], group_id: str, options: DownloadOptions) -> CommandError:
    """Return the error for files that were not saved, with the command that may save more of them."""
    again = ["director", "save", group_id, "--to", str(options.folder)]
    if options.name != DEFAULT_NAME:
        again += ["--name", options.name]
    hint = f"Try again: {shlex.join(again)}" if any(file.may_help for file in missing) else ""
    return CommandError("\n".join(file.sentence for file in missing), Status.FAILED, hint=hint)
