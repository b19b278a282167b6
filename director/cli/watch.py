"""Watches a group to its end, and saves its files."""

from collections.abc import Callable
from contextlib import closing

import click

from director.cli import text
from director.cli.connection import Connection, failure_of
from director.cli.display import make_display
from director.cli.downloads import Downloader, DownloadOptions, Unsaved, failed_to_save
from director.cli.exit_status import CommandError, Status
from director.client import Child, ChildCompleted, Group, InitialState, Unreachable


def watch_to_end(
    connection: Connection, group_id: str, options: DownloadOptions, *, quiet: bool = False
) -> int:
    """Show a group until it has ended, then its result; return the exit status.

    Raises ``CommandError`` after Ctrl-C (the group continues) or for files that could not be saved,
    and ``DirectorError`` if the Director was away too long.
    """
    try:
        missing = _show(connection, group_id, options, quiet=quiet)
    except KeyboardInterrupt:
        raise CommandError(
            f"Stopped watching. {group_id} continues.",
            Status.INTERRUPTED,
            hint=f"Watch it:  director watch {group_id}\nCancel it: director cancel {group_id}",
        ) from None
    except Unreachable as error:
        failure = failure_of(error, connection)
        failure.hint = f"{failure.hint}\nThe group continues: director watch {group_id}"
        raise failure from error
    group = connection.director.status(group_id)
    if not connection.as_json and not quiet:
        conclude(group, connection.name_of)
    if missing:
        raise failed_to_save(missing, group_id, options)
    return int(Status.OK if group.finished and group.status == "completed" else Status.FAILED)


def _show(
    connection: Connection, group_id: str, options: DownloadOptions, *, quiet: bool
) -> list[Unsaved]:
    """Show the group to its end; return the files that could not be saved."""
    director = connection.director
    with (
        make_display(
            as_json=connection.as_json, quiet=quiet, name_of=connection.name_of
        ) as display,
        Downloader(director, options, display.on_saved) as downloader,
        closing(director.stream(group_id)) as events,
    ):
        for event in events:
            display.on_event(event)
            if options.folder is None:
                continue
            if isinstance(event, ChildCompleted):
                downloader.download(group_id, event.job_id, event.outputs)
            elif isinstance(event, InitialState):
                # The state of a large group comes without outputs.
                is_whole = "truncated" not in event.raw
                downloader.download_all(event.group if is_whole else director.status(group_id))
        return downloader.finish()


def conclude(group: Group, name_of: Callable[[str], str] = str) -> None:
    """Print the result of a group: a sentence, the backends of the pool, then each failed job and
    each warning.
    """
    click.echo(text.summary(group))
    if group.placement == "pool" and (made := text.made_by(group, name_of)):
        click.echo(f"  Made by: {made}")

    def head(child: Child) -> str:
        return f"{text.place(child.backend_id, child.status, name_of)} seed {child.seed}"

    failed = [
        f"{head(child)}: {text.why(child)}"
        for child in group.child_jobs
        if child.status in ("failed", "timeout")
    ]
    warned = [
        f"{head(child)}: {text.plain_line(f'Warning: {warning}')}"
        for child in group.child_jobs
        for warning in child.all_warnings
    ]
    for lines, kind in ((failed, "more"), (warned, "more warnings")):
        for line in lines[:20]:
            click.echo(f"  {line}")
        if len(lines) > 20:
            click.echo(f"  … and {len(lines) - 20} {kind}: director show {group.job_group_id}")
    if failed and group.finished:
        click.echo(f"Retry them: director retry {group.job_group_id}")
