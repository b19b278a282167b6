"""Watching a group to its end, and saving what it makes on the way."""

from __future__ import annotations

from contextlib import ExitStack, closing

import click

from director.cli import text
from director.cli.connection import Asked, failure_of
from director.cli.display import Show, ended_well, showing
from director.cli.downloads import Saver, Saving, Unsaved, failed_to_save
from director.cli.exit_status import Failure, Status
from director.client import ChildCompleted, Director, Event, Group, InitialState, Unreachable


def watch_to_end(
    asked: Asked, director: Director, group_id: str, saving: Saving, *, quiet: bool = False
) -> int:
    """Show a group until it has ended, then say what came of it; return the exit status.

    Raises:
        Failure: Ctrl-C (the group goes on), or files that could not be saved.
        DirectorError: the Director stayed away too long.
    """
    try:
        missing = _shown(asked, director, group_id, saving, quiet=quiet)
    except KeyboardInterrupt:
        raise _left(group_id) from None
    except Unreachable as error:
        failure = failure_of(error, asked)
        failure.hint = f"{failure.hint}\nThe group goes on: director watch {group_id}"
        raise failure from error
    group = director.status(group_id)
    if not asked.as_json and not quiet:
        conclude(group)
    if missing:
        raise failed_to_save(missing, group_id, saving)
    return int(Status.OK if ended_well(group) else Status.FAILED)


def _shown(
    asked: Asked, director: Director, group_id: str, saving: Saving, *, quiet: bool
) -> list[Unsaved]:
    """Show the group to its end; return the files that could not be saved."""
    with ExitStack() as stack:
        saver: Saver | None = None
        show: Show = stack.enter_context(showing(as_json=asked.as_json, quiet=quiet))
        if saving.folder is not None:
            saver = stack.enter_context(Saver(director, saving.folder, saving.name, show.saved))
        events = stack.enter_context(closing(director.stream(group_id)))
        for event in events:
            show.see(event)
            if saver is not None:
                _save(saver, group_id, event)
        return [] if saver is None else saver.finish()


def _save(saver: Saver, group_id: str, event: Event) -> None:
    match event:
        case ChildCompleted():
            saver.take(group_id, event.job_id, event.outputs)
        case InitialState():
            saver.number(child.job_id for child in event.group.child_jobs)
            for child in event.group.child_jobs:
                saver.take(group_id, child.job_id, child.outputs)


def _left(group_id: str) -> Failure:
    return Failure(
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
