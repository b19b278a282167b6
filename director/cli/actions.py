"""Commands that change groups: ``retry``, ``move``, ``cancel``; and ``open``."""

import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from director.cli import environment, option_types, selection
from director.cli.connection import Connection, with_connection
from director.cli.downloads import DownloadOptions, name_option, save_option
from director.cli.exit_status import Status
from director.cli.watch import watch_to_end
from director.client import CancelResult, Director, GroupNotFinished, RetryOptions, RetryResult
from jobgroups.domain.text import pluralize


@click.command(
    epilog="\b\nExamples:\n  director cancel jg_0c1d9a77e3f2\n  director cancel jg_0c1d9a77e3f2 --job j_91ce44d07b3a\n"
)
@click.argument("group_ids", metavar="ID...", type=option_types.identifier, nargs=-1, required=True)
@option_types.jobs_option
@with_connection
def cancel(connection: Connection, group_ids: Sequence[str], jobs: Sequence[str]) -> None:
    """Cancel groups: queued jobs are dropped, running jobs are stopped, completed jobs stay.

    Prompts of other clients are never stopped. Cancelling twice is no error.
    """
    if jobs and len(group_ids) != 1:
        raise click.UsageError("--job needs exactly one group.")
    done: list[tuple[str, CancelResult]] = []
    try:
        with connection.director() as director:
            for name in jobs or group_ids:
                result = director.cancel_job(group_ids[0], name) if jobs else director.cancel(name)
                done.append((name, result))
    finally:
        # Also after a refusal: the groups before it are cancelled.
        raw = [{"id": name, **result.raw} for name, result in done]
        connection.show(raw, [_cancelled(name, result) for name, result in done])


def _cancelled(name: str, result: CancelResult) -> str:
    state = "cancelled" if result.cancelled else "had ended"
    return (
        f"{name} {state}: {pluralize(result.interrupted, 'job')} cancelled,"
        f" {result.already_complete} completed before, {result.already_failed} failed before."
    )


@click.command(
    epilog="\b\nExamples:\n  director retry jg_0c1d9a77e3f2 --watch"
    "\n  director retry jg_0c1d9a77e3f2 --job j_91ce44d07b3a --where other"
    "\n  director retry jg_0c1d9a77e3f2 --job j_91ce44d07b3a --backend gpu-3\n"
)
@option_types.group_id_argument
@option_types.jobs_option
@click.option(
    "--where",
    type=click.Choice(["auto", "same", "other"]),
    help="On the same backend or another one. auto (default): another one after out of memory, a"
    " missing model or a lost backend, if one can accept the job.",
)
@click.option("--backend", metavar="NAME", help="On this backend.")
@click.option(
    "--elsewhere",
    type=click.Choice(["group", "any"]),
    help="A job whose backend cannot accept it may move: within the group, or to any backend.",
)
@click.option("--watch", "is_watched", is_flag=True, help="Watch the group to its end.")
@save_option
@name_option
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
    """Retry the failed jobs of the finished group ID, with the same seeds.

    Completed jobs stay. In a cancelled group the cancelled jobs are retried, too. With --job, a failed job
    is retried while its group runs.
    """
    if sum(option is not None for option in (where, backend, elsewhere)) > 1:
        raise click.UsageError("Use one of --where, --backend and --elsewhere.")
    options = DownloadOptions(folder, name)
    with connection.director() as director:
        policy = RetryOptions(retry_elsewhere=elsewhere, by=environment.submitter())
        if backend is not None:
            policy["backend_id"] = selection.exactly_one(backend, director.backends()).backend_id
        elif elsewhere is None:
            policy["where"] = where or "auto"
        for result in _retry(director, group_id, jobs, policy):
            raw = {"type": "retried", **result.raw}
            connection.show(raw, [_retried(result)], indent=None)
        if not is_watched and folder is None:
            return int(Status.OK)
        return watch_to_end(connection, director, group_id, options)


def _retry(director: Director, group_id: str, jobs: Sequence[str], policy: RetryOptions) -> Iterator[RetryResult]:
    """Retry a group or some of its jobs; while the group runs, the jobs one by one."""
    if len(jobs) != 1:
        try:
            yield director.retry(group_id, list(jobs) or None, **policy)
        except GroupNotFinished:
            if not jobs:
                raise
        else:
            return
    for job in jobs:
        yield director.retry_job(group_id, job, **policy)


def _retried(result: RetryResult) -> str:
    number = pluralize(len(result.job_ids), "job")
    adopted = len(result.adopted_job_ids)
    had = f", {adopted} had a result after all" if adopted else ""
    moved = "".join(f"\n  {job} on {backend_id}" for job, backend_id in result.moved.items())
    group_id = result.job_group_id
    return f"{group_id}: {number} queued again{had}, run {result.run}. See: director watch {group_id}{moved}"


@click.command(epilog="\b\nExamples:\n  director move jg_0c1d9a77e3f2 j_91ce44d07b3a gpu-3\n")
@option_types.group_id_argument
@click.argument("job_id", metavar="JOB", type=option_types.identifier)
@click.argument("backend", metavar="BACKEND")
@with_connection
def move(connection: Connection, group_id: str, job_id: str, backend: str) -> None:
    """Move the queued job JOB of the group ID to BACKEND.

    Its prompt is removed from the queue of its old backend first. A job that has started stays.
    """
    with connection.director() as director:
        target = selection.exactly_one(backend, director.backends())
        result = director.move(group_id, job_id, target.backend_id, by=environment.submitter())
    old = result.removing_from
    first = f", after its prompt is removed from the queue of {old}" if old else ""
    line = f"{job_id} is queued on {result.backend_id} now{first}. See: director watch {group_id}"
    if not result.moved:
        line = f"{job_id} is already queued on {result.backend_id}."
    connection.show(result.raw, [line])


@click.command("open", epilog="\b\nExamples:\n  director open jg_0c1d9a77e3f2\n  director open\n")
@click.argument("group_id", metavar="[ID]", type=option_types.identifier, required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address only.")
@with_connection
def open_(connection: Connection, group_id: str | None, only_print: bool) -> None:
    """Open the page of the group ID in the browser; without ID, the list of all groups."""
    url = connection.url.rstrip("/") + "/"
    if group_id is not None:
        with connection.director() as director:
            director.status(group_id, jobs=False)
        url = f"{url}groups/{group_id}"
    connection.show({"url": url}, [url])
    if not only_print and not connection.as_json:
        webbrowser.open(url)
