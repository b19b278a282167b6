"""Watching a group to its end, and download_options what it makes on the way."""

from __future__ import annotations

from contextlib import ExitStack, closing

import click

from director.cli import text
from director.cli.connection import Connection, failure_of
from director.cli.display import Display, ended_well, make_display
from director.cli.downloads import Downloader, DownloadOptions, Unsaved, failed_to_save
from director.cli.exit_status import CommandError, Status
from director.client import ChildCompleted, Director, Event, Group, InitialState, Unreachable


def watch_to_end(
    connection: Connection,
    director: Director,
    group_id: str,
    download_options: DownloadOptions,
    *,
    quiet: bool = False,
) -> int:
    """Show a group until it has ended, then say what came of it; return the exit status.

    Raises:
        CommandError: Ctrl-C (the group goes on), or files that could not be saved.
        DirectorError: the Director stayed away too long.
    """
    try:
        missing = _shown(connection, director, group_id, download_options, quiet=quiet)
    except KeyboardInterrupt:
        raise _left(group_id) from None
    except Unreachable as error:
        failure = failure_of(error, connection)
        failure.hint = f"{failure.hint}\nThe group goes on: director watch {group_id}"
        raise failure from error
    group = director.status(group_id)
    if not connection.as_json and not quiet:
        conclude(group)
    if missing:
        raise failed_to_save(missing, group_id, download_options)
    return int(Status.OK if ended_well(group) else Status.FAILED)


def _shown(
    connection: Connection,
    director: Director,
    group_id: str,
    download_options: DownloadOptions,
    *,
    quiet: bool,
) -> list[Unsaved]:
    """Show the group to its end; return the files that could not be saved."""
    with ExitStack() as stack:
        downloader: Downloader | None = None
        display: Display = stack.enter_context(
            make_display(as_json=connection.as_json, quiet=quiet)
        )
        if download_options.folder is not None:
            downloader = stack.enter_context(
                Downloader(
                    director, download_options.folder, download_options.name, display.on_saved
                )
            )
        events = stack.enter_context(closing(director.stream(group_id)))
        for event in events:
            display.on_event(event)
            if downloader is not None:
                _save(downloader, group_id, event)
        return [] if downloader is None else downloader.finish()


def _save(downloader: Downloader, group_id: str, event: Event) -> None:
    match event:
        case ChildCompleted():
            downloader.download(group_id, event.job_id, event.outputs)
        case InitialState():
            downloader.number(child.job_id for child in event.group.child_jobs)
            for child in event.group.child_jobs:
                downloader.download(group_id, child.job_id, child.outputs)


def _left(group_id: str) -> CommandError:
    return CommandError(
        f"Stopped watching. {group_id} continues.",
        Status.INTERRUPTED,
        hint=f"Come back: director watch {group_id}\nStop it:   director cancel {group_id}",
    )


def conclude(group: Group) -> None:
    """Print what came of a group: a sentence, then each child without a result or with a warning."""
    click.echo(text.summary(group))
    failed = [one for one in group.child_jobs if one.status in ("failed", "timeout")]
    for child in failed[:20]:
        click.echo(f"  {child.backend_id} seed {child.seed}: {text.why(child)}")
    if len(failed) > 20:
        click.echo(f"  … and {len(failed) - 20} more: director show {group.job_group_id}")
    warned = [(child, one) for child in group.child_jobs for one in child.warnings]
    for child, warning in warned[:20]:
        line = text.plain_line(f"Warning: {warning}")
        click.echo(f"  {child.backend_id} seed {child.seed}: {line}")
    if len(warned) > 20:
        click.echo(f"  … and {len(warned) - 20} more warnings: director show {group.job_group_id}")
    if failed and group.finished:
        click.echo(f"Render these again: director retry {group.job_group_id}")
