"""Commands that read groups: ``watch``, ``list``, ``show``, ``save``, ``events``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from director.cli import option_types, selection, text
from director.cli.connection import Connection, with_connection
from director.cli.display import make_display
from director.cli.downloads import (
    Downloader,
    DownloadOptions,
    failed_to_save,
    name_option,
    save_option,
)
from director.cli.exit_status import CommandError, Status, usable
from director.cli.watch import watch_to_end
from director.client import Attempt, Child, Event, Group
from jobgroups.domain.states import GroupStatus
from jobgroups.domain.text import duration, stop_condition

_REUSED: Final = "reused: every node was cached"
#: Statuses of groups with a failed job.
_FAILED: Final = ("failed", "partial_complete")


@click.command
@option_types.group_id_argument
@save_option
@name_option()
@click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing; report the result by the exit status."
)
@with_connection
def watch(
    connection: Connection, group_id: str, folder: Path | None, file_name: str, quiet: bool
) -> int:
    """Show the group ID until it has ended; Ctrl-C leaves it running.

    Exit status 0: the group is completed. 1: a job failed, timed out or was cancelled.
    """
    download_options = DownloadOptions(folder, file_name)
    connection.director.status(group_id, jobs=False)  # an unknown group is an error at once
    return watch_to_end(connection, group_id, download_options, quiet=quiet)


@click.command("list")
@click.option("--failed", "is_failed", is_flag=True, help="Groups with a failed job.")
@click.option(
    "--mine",
    is_flag=True,
    help="Groups that you submitted: by the account, or DIRECTOR_SUBMITTER, or USER@HOST.",
)
@click.option(
    "--since",
    "created_after",
    type=option_types.moment,
    metavar="WHEN",
    help="Created since: 30m, 1h, 2d, 2026-02-01.",
)
@click.option(
    "--before", "created_before", type=option_types.moment, metavar="WHEN", help="Created before."
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([status.value for status in GroupStatus]),
    help="With this status.",
)
@click.option(
    "-b",
    "--backend",
    type=option_types.require_text,
    metavar="NAME",
    help="With a job on this backend: its name or id.",
)
@click.option(
    "--text",
    metavar="WORDS",
    help="With these words in name, prompt, metadata, id or submitter; or the seed of a job, or the "
    "id of a prompt at the ComfyUI listener.",
)
@click.option(
    "--archived",
    is_flag=True,
    callback=option_types.parse_with(lambda on: "yes" if on else None),
    help="Archived groups.",
)
@option_types.metadata_option("With this metadata.")
@option_types.limit_option(20, "groups")
@with_connection
def list_(
    connection: Connection,
    *,
    is_failed: bool,
    mine: bool,
    states: Sequence[str],
    backend: str | None,
    limit: int,
    **filters: Any,
) -> None:
    """List groups, newest first."""
    filters |= {"backend": selection.filter_id(connection, backend), "limit": min(limit, 200)}
    if mine:
        filters["submitter"] = connection.own_name()
    groups_by_id: dict[str, Group] = {}
    for state in _wanted_statuses(states, is_failed=is_failed):
        newest = islice(connection.director.list(status=state, **filters), limit)
        # By id: the status of a group may change while both are listed.
        groups_by_id |= {group.job_group_id: group for group in newest}
    groups = sorted(
        groups_by_id.values(),
        key=lambda group: (group.created_at, group.job_group_id),
        reverse=True,
    )[:limit]
    if backend is not None and not groups:
        # A backend that was removed still has groups.
        ids = [known.backend_id for known in connection.director.backends()]
        if backend not in ids:
            raise selection.unknown_backend(backend, "the id", ids)
    heads = ("ID", "STATUS", "COMPLETED", "FAILED", "CREATED", "TITLE")
    rows = [
        (
            group.job_group_id,
            group.status,
            f"{group.completed_count}/{group.total_count}",
            group.failed_count or None,
            text.local(group.created_at),
            _title(group),
        )
        for group in groups
    ]
    lines = text.columns(heads, rows, statuses=1)
    connection.show([group.raw for group in groups], lines, empty="No group was found.")


def _wanted_statuses(states: Sequence[str], *, is_failed: bool) -> Sequence[str | None]:
    """Return the statuses to request, each separately; None for any."""
    if not is_failed:
        return states or (None,)
    both = [state for state in _FAILED if not states or state in states]
    if not both:
        raise click.UsageError(f"--failed means --state {' or '.join(_FAILED)}.")
    return both


def _title(group: Group) -> str:
    """Return the title of a group, if it is not the id, with its submitter and metadata."""
    notes = [
        f"{key}={value}"
        for key, value in group.metadata.items()
        if not isinstance(value, dict | list)
    ]
    title = "" if group.title == group.job_group_id else group.title
    return "; ".join(filter(None, [title, " ".join(filter(None, [group.submitter, *notes]))]))


@click.command
@option_types.group_id_argument
@click.argument("job_id", metavar="[JOB]", type=option_types.identifier, required=False)
@click.option("--workflow", is_flag=True, help="Print the workflow as it was submitted.")
@click.option(
    "--editor", is_flag=True, help="Print the address at which ComfyUI's editor opens its workflow."
)
@with_connection
def show(
    connection: Connection, group_id: str, job_id: str | None, workflow: bool, editor: bool
) -> None:
    """Show the group ID with its jobs; with JOB, one job with its attempts."""
    if editor:
        click.echo(f"{connection.url.rstrip('/')}/groups/{group_id}/editor")
    elif workflow:
        click.echo(text.json_text(connection.director.workflow(group_id), 2))
    elif job_id is not None:
        child = connection.director.job(group_id, job_id)
        connection.show(child.raw, _child_lines(child, connection.name_of))
    else:
        group = connection.director.status(group_id)
        connection.show(group.raw, _group_lines(group, connection.name_of))


def _group_lines(group: Group, name_of: Callable[[str], str]) -> Iterator[str]:
    yield text.summary(group)
    facts = {
        "Title": group.title if group.title != group.job_group_id else "",
        "Shared": "with every account" if group.visibility == "shared" else "",
        "Archived": text.local(group.archived_at) if group.archived_at else "",
        "Submitted": f"{text.local(group.created_at)} {group.submitter or ''}".rstrip(),
        "Came through": "" if group.program is None else f"the ComfyUI listener {group.program}",
        "Expected to end": "" if group.eta_seconds is None else f"in {duration(group.eta_seconds)}",
        "Priority": ""
        if (group.priority, group.level) == (50, 50)
        else f"{group.priority}, counts as {group.level}",
        "At once": f"at most {group.max_running}" if group.max_running else "",
        "Starts after": text.local(group.start_after) if group.start_after else "",
        "Paused": text.pause(group.paused) if group.paused else "",
        "Kept until": ""
        if group.expires_at is None
        else f"{text.local(group.expires_at)}, unless a job has a star",
        "Seeds": f"{group.seed_strategy} from {group.base_seed}",
        "Run": str(group.run) if group.run > 1 else "",
        "Made by": text.made_by(group, name_of) if group.placement == "pool" else "",
        "Partial outputs": group.partial_outputs if group.partial_outputs != "accept" else "",
        "Stopped" if group.stopped_at else "Stop when": stop_condition(group.stop_when),
        "Metadata": " ".join(f"{key}={value}" for key, value in group.metadata.items()),
    }
    for head, fact in facts.items():
        if fact:
            yield f"  {head}: {text.plain_line(fact)}"
    for warning in group.warnings:
        yield f"  Warning: {warning}"
    for skipped in group.skipped_backends:
        head = "Not ready at submission" if group.placement == "pool" else "Left out"
        yield f"  {head}: {name_of(skipped.backend_id)}: {skipped.reason}"
    is_batch = any(child.variation for child in group.child_jobs)
    heads = (
        "JOB",
        "BACKEND",
        "SEED",
        *(["VARIATION"] if is_batch else []),
        "STATUS",
        "PROGRESS",
        "REASON",
    )
    rows = [
        (
            child.job_id,
            text.place(child.backend_id, child.status, name_of),
            child.seed,
            *([text.variation(child)] if is_batch else []),
            text.shown_status(child),
            f"{child.progress:.0f} %",
            _why(child),
        )
        for child in group.child_jobs
    ]
    yield from text.columns(heads, rows, statuses=heads.index("STATUS"))


def _why(child: Child) -> str:
    reason = text.why(child) or (child.current_step or "" if child.status == "running" else "")
    reason = reason or (_REUSED if child.outputs_reused else "")
    warnings = [f"warning: {text.plain_line(warning)}" for warning in child.all_warnings]
    return "; ".join(filter(None, [reason, *warnings]))


def _child_lines(child: Child, name_of: Callable[[str], str]) -> Iterator[str]:
    status = text.coloured(text.shown_status(child))
    where = text.place(child.backend_id, child.status, name_of)
    yield f"{child.job_id} {status} on {where}, seed {child.seed}"
    if child.variation:
        yield f"  Variation: {text.variation(child)}"
    if child.metadata:
        yield f"  Metadata: {text.plain_line(' '.join(f'{key}={value}' for key, value in child.metadata.items()))}"
    if reason := text.why(child) or (_REUSED if child.outputs_reused else ""):
        yield f"  {reason}"
    for warning in child.all_warnings:
        yield f"  Warning: {text.plain_line(warning)}"
    for file in child.files:
        yield f"  {file.filename}{' (missing)' if file.missing else ''}: {file.url}"
    heads = ("ATTEMPT", "RUN", "BACKEND", "OUTCOME", "STARTED", "ENDED", "REASON")
    rows = [
        (
            attempt.number,
            attempt.run,
            name_of(attempt.backend_id or "-"),
            attempt.outcome,
            text.local(attempt.started_at),
            text.local(attempt.ended_at),
            _why_ended(attempt),
        )
        for attempt in child.attempts
    ]
    yield from text.columns(heads, rows)


def _why_ended(attempt: Attempt) -> str:
    kind = attempt.failure_class or (None if attempt.error_message else attempt.stop_reason)
    kind = f"({kind})" if kind else ""
    return " ".join(filter(None, [attempt.error_message, kind, attempt.left_running]))


@click.command
@click.argument("source", metavar="ID|FILE", type=option_types.require_text)
@click.argument("job_id", metavar="[JOB]", type=option_types.identifier, required=False)
@with_connection
def provenance(connection: Connection, source: str, job_id: str | None) -> None:
    """Print how a job was made: its workflow as sent, input files, backend, versions, times.

    The job is JOB of the group ID, or the one that made FILE.
    """
    if job_id is None:
        with usable(source):
            job = connection.director.find_job(Path(source))
        source, job_id = job.job_group_id, job.job_id
    record = connection.director.provenance(option_types.identifier(source), job_id)
    connection.show(record, [text.json_text(record, 2)])


@click.command
@option_types.group_id_argument
@click.option(
    "--to",
    "folder",
    type=option_types.folder,
    metavar="DIR",
    default=".",
    help="Folder (default: the current one).",
)
@name_option()
@with_connection
def save(connection: Connection, group_id: str, folder: Path, file_name: str) -> int:
    """Save all output files of the group ID so far. A file that exists already is not saved twice."""
    download_options = DownloadOptions(folder, file_name)
    group = connection.director.status(group_id)
    with (
        make_display(as_json=connection.as_json) as display,
        Downloader(connection.director, download_options, display.on_saved) as downloader,
    ):
        downloader.download_all(group)
        missing = downloader.finish()
    if missing:
        raise failed_to_save(missing, group_id, download_options)
    if not group.files:
        raise CommandError(
            f"{group_id} has no output files ({text.label(group.status)}).", Status.FAILED
        )
    return int(Status.OK)


@click.command
@option_types.group_id_argument
@click.option(
    "-o",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default="sheet.webp",
    show_default=True,
    metavar="FILE",
    help="The file, which is replaced; of more pages also FILE_2.",
)
@click.option(
    "--axes",
    default="",
    metavar="INPUTS",
    help="Inputs of a sweep for columns, rows and blocks: 3.cfg,seed.",
)
@with_connection
def sheet(connection: Connection, group_id: str, path: Path, axes: str) -> None:
    """Save the contact sheet of the group ID: the grid of a sweep, or all jobs in order, with
    labels.
    """
    with usable(path, "written"):
        paths = connection.director.sheet(group_id, path, axes=[axes] if axes else [])
    connection.show([str(path) for path in paths], [str(path) for path in paths])


@click.command
@option_types.group_id_argument
@click.option("--since", type=click.IntRange(0), default=0, help="Only events after this number.")
@click.option("-f", "--follow", is_flag=True, help="Print new events until the group has ended.")
@with_connection
def events(connection: Connection, group_id: str, since: int, follow: bool) -> None:
    """Print the events of the group ID, one per line."""
    stored = connection.director.events(group_id, since)
    for event in stored:
        connection.show(event.raw, _event_lines(event, connection.name_of), indent=None)
    if not follow:
        return
    last = max((event.seq or 0 for event in stored), default=since)
    try:
        with closing(connection.director.stream(group_id, since=last)) as new:
            for event in new:
                if event.seq is not None:
                    connection.show(event.raw, _event_lines(event, connection.name_of), indent=None)
    except KeyboardInterrupt:
        raise CommandError(f"Stopped watching. {group_id} continues.", Status.INTERRUPTED) from None


def _event_lines(event: Event, name_of: Callable[[str], str]) -> Iterator[str]:
    raw = event.raw
    status = "queued" if event.type in ("child_requeued", "child_retrying") else ""
    backends = [
        click.style(text.plain_line(text.place(raw[key], status, name_of)), dim=raw[key] is None)
        for key in ("backend_id", "next_backend_id")
        if key in raw
    ]
    facts = [
        text.plain_line(str(raw[key]))
        for key in ("seed", "error", "reason", "status")
        if raw.get(key)
    ]
    yield " ".join([f"{event.seq:>4} {text.plain_line(event.type)}", *backends, *facts])
