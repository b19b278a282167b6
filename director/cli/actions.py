"""Acting on groups: ``retry``, ``move``, ``cancel``, ``open``."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from director.cli import environment, option_types, selection, text
from director.cli.connection import Connection, with_connection
from director.cli.downloads import DEFAULT_NAME, DownloadOptions
from director.cli.exit_status import Status
from director.cli.watch import watch_to_end
from director.client import (
    CancelResult,
    Director,
    GroupNotFinished,
    RetryOptions,
    RetryResult,
)


@click.command(
    epilog="\b\nExamples:\n  director cancel jg_0c1d9a77e3f2\n  director cancel jg_0c1d9a77e3f2 --job j_91ce44d07b3a\n"
)
@click.argument("group_ids", metavar="ID...", type=option_types.identifier, nargs=-1, required=True)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    type=option_types.identifier,
    metavar="JOB",
    help="Only this child of the (one) group.",
)
@with_connection
def cancel(connection: Connection, group_ids: Sequence[str], jobs: Sequence[str]) -> None:
    """Cancel groups: what waits is dropped, what renders is stopped, what is done stays.

    Only the Director's own prompts are touched. Cancelling twice is no error.
    """
    if jobs and len(group_ids) != 1:
        raise click.UsageError("--job names children of one group.")
    done: list[tuple[str, CancelResult]] = []
    try:
        with connection.director() as director:
            for name in jobs or group_ids:
                result = director.cancel_job(group_ids[0], name) if jobs else director.cancel(name)
                done.append((name, result))
    finally:
        # Also where one was refused: those before it are cancelled.
        _show_cancelled(connection, done)


def _show_cancelled(connection: Connection, done: Sequence[tuple[str, CancelResult]]) -> None:
    if connection.as_json:
        connection.show([{"id": name, **result.raw} for name, result in done])
        return
    for name, result in done:
        state = "cancelled" if result.cancelled else "had ended"
        number = text.plural(result.interrupted, "child", "children")
        click.echo(
            f"{name} {state}: {number} cancelled, {result.already_complete} done before,"
            f" {result.already_failed} failed before."
        )


@click.command(
    epilog="\b\nExamples:\n  director retry jg_0c1d9a77e3f2 --watch"
    "\n  director retry jg_0c1d9a77e3f2 --job j_91ce44d07b3a --where other"
    "\n  director retry jg_0c1d9a77e3f2 --job j_91ce44d07b3a --backend gpu-3\n"
)
@click.argument("group_id", metavar="ID", type=option_types.identifier)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    type=option_types.identifier,
    metavar="JOB",
    help="Only this child, also while the group runs; may be repeated.",
)
@click.option(
    "--where",
    type=click.Choice(["auto", "same", "other"]),
    help="At the same backend or another one. auto (default): another one after out of memory, a"
    " missing model or a lost backend, if one can take it.",
)
@click.option("--backend", metavar="NAME", help="At this backend.")
@click.option(
    "--elsewhere",
    type=click.Choice(["group", "any"]),
    help="A child whose backend cannot take it may move: within the group, or anywhere.",
)
@click.option("--watch", "is_watched", is_flag=True, help="Show it to its end.")
@click.option(
    "--save",
    "folder",
    type=option_types.folder,
    metavar="DIR",
    help="Watch, and save each file there.",
)
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Names of saved files.")
@with_connection
def retry(
    connection: Connection,
    *,
    group_id: str,
    jobs: Sequence[str],
    where: str | None,
    backend: str | None,
    elsewhere: str | None,
    is_watched: bool,
    folder: Path | None,
    name: str,
) -> int:
    """Render again what failed in the finished group ID, with the same seeds.

    Children that completed are left alone. In a group that was cancelled, the cancelled ones too. With
    --job, a child that failed is rendered again while its group runs.
    """
    if sum(one is not None for one in (where, backend, elsewhere)) > 1:
        raise click.UsageError("Use one of --where, --backend and --elsewhere.")
    download_options = DownloadOptions(folder, name)
    with connection.director() as director:
        options = RetryOptions(retry_elsewhere=elsewhere, by=environment.submitter())
        if backend is not None:
            options["backend_id"] = selection.exactly_one(backend, director.backends()).backend_id
        elif elsewhere is None:
            options["where"] = where or "auto"
        for done in _retried(director, group_id, jobs, options):
            _show_retried(connection, done)
        if not is_watched and folder is None:
            return int(Status.OK)
        return watch_to_end(connection, director, group_id, download_options)


def _retried(
    director: Director, group_id: str, jobs: Sequence[str], options: RetryOptions
) -> Iterator[RetryResult]:
    """Retry a group or some of its children; while the group runs, these one by one."""
    if len(jobs) != 1:
        try:
            yield director.retry(group_id, list(jobs) or None, **options)
        except GroupNotFinished:
            if not jobs:
                raise
        else:
            return
    for job in jobs:
        yield director.retry_job(group_id, job, **options)


def _show_retried(connection: Connection, done: RetryResult) -> None:
    if connection.as_json:
        connection.show_line({"type": "retried", **done.raw})
        return
    number = text.plural(len(done.job_ids), "child", "children")
    adopted = len(done.adopted_job_ids)
    had = f", {adopted} had their picture after all" if adopted else ""
    group_id = done.job_group_id
    moved = "".join(f"\n  {job} at {backend_id}" for job, backend_id in done.moved.items())
    click.echo(
        f"{group_id}: {number} again{had}, run {done.run}. See: director watch {group_id}{moved}"
    )


@click.command(epilog="\b\nExamples:\n  director move jg_0c1d9a77e3f2 j_91ce44d07b3a gpu-3\n")
@click.argument("group_id", metavar="ID", type=option_types.identifier)
@click.argument("job_id", metavar="JOB", type=option_types.identifier)
@click.argument("backend", metavar="BACKEND")
@with_connection
def move(connection: Connection, group_id: str, job_id: str, backend: str) -> None:
    """Have the waiting child JOB of the group ID rendered at BACKEND.

    Its prompt is removed from the queue of its old backend first. A child that has started stays.
    """
    with connection.director() as director:
        target = selection.exactly_one(backend, director.backends())
        done = director.move(group_id, job_id, target.backend_id, by=environment.submitter())
    if connection.as_json:
        connection.show(done.raw)
        return
    if not done.moved:
        click.echo(f"{job_id} waits for {done.backend_id} already.")
        return
    first = (
        f", after it was removed from the queue of {done.removing_from}"
        if done.removing_from
        else ""
    )
    click.echo(f"{job_id} waits for {done.backend_id} now{first}. See: director watch {group_id}")


@click.command("open", epilog="\b\nExamples:\n  director open jg_0c1d9a77e3f2\n  director open\n")
@click.argument("group_id", metavar="[ID]", type=option_types.identifier, required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address alone.")
@with_connection
def open_(connection: Connection, group_id: str | None, only_print: bool) -> None:
    """Open the page of the group ID in the browser; without ID, the list of all groups."""
    url = connection.url.rstrip("/") + "/"
    if group_id is not None:
        with connection.director() as director:
            director.status(group_id)
        url = f"{url}groups/{group_id}"
    if connection.as_json:
        connection.show({"url": url})
    else:
        click.echo(url)
    if not only_print and not connection.as_json:
        webbrowser.open(url)
