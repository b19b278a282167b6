"""Acting on groups: ``retry``, ``cancel``, ``open``."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

import click

from director.cli import values, words
from director.cli.exits import Status
from director.cli.saving import DEFAULT_NAME, Saving
from director.cli.talking import Asked, asking
from director.cli.watching import watch_to_end
from director.client import CancelResult


@click.command(
    epilog="\b\nExamples:\n  director cancel jg_0c1d9a77e3f2\n  director cancel jg_0c1d9a77e3f2 --job j_91ce44d07b3a\n"
)
@click.argument("group_ids", metavar="ID...", type=values.identifier, nargs=-1, required=True)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    type=values.identifier,
    metavar="JOB",
    help="Only this child of the (one) group.",
)
@asking
def cancel(asked: Asked, group_ids: Sequence[str], jobs: Sequence[str]) -> None:
    """Cancel groups: what waits is dropped, what renders is stopped, what is done stays.

    Only the Director's own prompts are touched. Cancelling twice is no error.
    """
    if jobs and len(group_ids) != 1:
        raise click.UsageError("--job names children of one group.")
    done: list[tuple[str, CancelResult]] = []
    try:
        with asked.director() as director:
            for name in jobs or group_ids:
                result = director.cancel_job(group_ids[0], name) if jobs else director.cancel(name)
                done.append((name, result))
    finally:
        # Also where one was refused: those before it are cancelled.
        _show_cancelled(asked, done)


def _show_cancelled(asked: Asked, done: Sequence[tuple[str, CancelResult]]) -> None:
    if asked.as_json:
        asked.show([{"id": name, **result.raw} for name, result in done])
        return
    for name, result in done:
        state = "cancelled" if result.cancelled else "had ended"
        number = words.plural(result.interrupted, "child", "children")
        click.echo(
            f"{name} {state}: {number} cancelled, {result.already_complete} done before,"
            f" {result.already_failed} failed before."
        )


@click.command(
    epilog="\b\nExamples:\n  director retry jg_0c1d9a77e3f2 --watch\n  director retry jg_0c1d9a77e3f2 --job j_91ce44d07b3a --elsewhere any\n"
)
@click.argument("group_id", metavar="ID", type=values.identifier)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    type=values.identifier,
    metavar="JOB",
    help="Only this child; may be repeated.",
)
@click.option(
    "--elsewhere",
    type=click.Choice(["group", "any"]),
    help="A child whose backend cannot take it may move: within the group, or anywhere.",
)
@click.option("--watch", "is_watched", is_flag=True, help="Show it to its end.")
@click.option(
    "--save",
    "folder",
    type=values.folder,
    metavar="DIR",
    help="Watch, and save each file there.",
)
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Names of saved files.")
@asking
def retry(
    asked: Asked,
    *,
    group_id: str,
    jobs: Sequence[str],
    elsewhere: str | None,
    is_watched: bool,
    folder: Path | None,
    name: str,
) -> int:
    """Render again what failed in the finished group ID, with the same seeds.

    Children that completed are left alone. In a group that was cancelled, the cancelled ones too.
    """
    saving = Saving(folder, name)
    with asked.director() as director:
        done = director.retry(group_id, job_ids=list(jobs) or None, retry_elsewhere=elsewhere)
        if asked.as_json:
            asked.show_line({"type": "retried", **done.raw})
        else:
            number = words.plural(len(done.job_ids), "child", "children")
            adopted = len(done.adopted_job_ids)
            had = f", {adopted} had their picture after all" if adopted else ""
            click.echo(
                f"{group_id}: {number} again{had}, run {done.run}. See: director watch {group_id}"
            )
        if not is_watched and folder is None:
            return int(Status.OK)
        return watch_to_end(asked, director, group_id, saving)


@click.command("open", epilog="\b\nExamples:\n  director open jg_0c1d9a77e3f2\n  director open\n")
@click.argument("group_id", metavar="[ID]", type=values.identifier, required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address alone.")
@asking
def open_(asked: Asked, group_id: str | None, only_print: bool) -> None:
    """Open the page of the group ID in the browser; without ID, the list of all groups."""
    url = asked.url.rstrip("/") + "/"
    if group_id is not None:
        with asked.director() as director:
            director.status(group_id)
        url = f"{url}groups/{group_id}"
    if asked.as_json:
        asked.show({"url": url})
    else:
        click.echo(url)
    if not only_print and not asked.as_json:
        webbrowser.open(url)
