"""Commands that change groups: ``retry``, ``move``, ``cancel``, ``rename``, ``priority``, ``next``,
``archive``, ``share``, ``delete``; and ``weight``, ``open``.
"""

import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from director.cli import option_types, selection, text
from director.cli.connection import Connection, with_connection
from director.cli.downloads import DownloadOptions, name_option, save_option
from director.cli.exit_status import Status, confirm
from director.cli.watch import watch_to_end
from director.client import CancelResult, Conflict, Deletion, Director, RetryOptions, RetryResult
from jobgroups.domain.text import pluralize


@click.command
@click.argument("group_ids", metavar="[ID]...", type=option_types.identifier, nargs=-1)
@option_types.jobs_option
@click.option(
    "--all",
    "is_all",
    is_flag=True,
    help="All groups that have not ended: yours, or as an operator those of all. First it shows how"
    " many, and asks.",
)
@option_types.yes_option
@with_connection
def cancel(
    connection: Connection,
    *,
    group_ids: Sequence[str],
    jobs: Sequence[str],
    is_all: bool,
    yes: bool,
) -> None:
    """Cancel groups: queued jobs are dropped, running jobs are stopped, completed jobs stay.

    Prompts of other clients are never stopped. Cancelling twice is no error.
    """
    if is_all == bool(group_ids):
        raise click.UsageError("Name the groups, or use --all.")
    if is_all:
        if jobs:
            raise click.UsageError("--all cancels whole groups: use it without --job.")
        _cancel_all(connection, ask=not yes)
        return
    if jobs and len(group_ids) != 1:
        raise click.UsageError("--job needs exactly one group.")
    with connection.results() as done:
        for name in jobs or group_ids:
            result = (
                connection.director.cancel_job(group_ids[0], name)
                if jobs
                else connection.director.cancel(name)
            )
            done.append(({"id": name, **result.raw}, _cancel_text(name, result)))


def _cancel_all(connection: Connection, *, ask: bool) -> None:
    work = connection.director.open_work()
    if ask and work.groups:
        running = f", of which {work.running} run now" if work.running else ""
        what = f"{pluralize(work.jobs, 'job')} of {pluralize(work.groups, 'group')}{running}"
        confirm(f"Cancel {what}?", "Nothing was cancelled.")
    done = connection.director.cancel_all()
    what = f"{pluralize(done.jobs, 'job')} of {pluralize(done.groups, 'group')} cancelled."
    line = what if done.groups else "No group was open."
    connection.show({"groups": done.groups, "jobs": done.jobs}, [line])


def _cancel_text(name: str, result: CancelResult) -> str:
    state = "cancelled" if result.cancelled else "had ended"
    return (
        f"{name} {state}: {pluralize(result.interrupted, 'job')} cancelled,"
        f" {result.already_complete} completed before, {result.already_failed} failed before."
    )


@click.command
@option_types.group_id_argument
@option_types.jobs_option
@click.option(
    "--where",
    type=click.Choice(["auto", "same", "other"]),
    help="On the same backend or another one. auto (default): another one after out of memory, a"
    " missing model or node, and a lost or unreachable backend, if one can accept the job.",
)
@click.option("--backend", metavar="NAME", help="On this backend.")
@click.option(
    "--elsewhere",
    type=click.Choice(["group", "any"]),
    help="A job whose backend cannot accept it may move: within the group, or to any backend.",
)
@click.option("--watch", "is_watched", is_flag=True, help="Watch the group to its end.")
@save_option
@name_option()
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
    file_name: str,
) -> int:
    """Retry the failed jobs of the finished group ID, with the same seeds.

    Completed jobs stay. In a cancelled group the cancelled jobs are retried, too. With --job, a
    failed job is retried while its group runs.
    """
    if sum(option is not None for option in (where, backend, elsewhere)) > 1:
        raise click.UsageError("Use one of --where, --backend and --elsewhere.")
    options = DownloadOptions(folder, file_name)
    policy = RetryOptions(retry_elsewhere=elsewhere, by=connection.submitter)
    if backend is not None:
        policy["backend_id"] = selection.exactly_one(
            backend, connection.director.backends()
        ).backend_id
    elif elsewhere is None:
        policy["where"] = where or "auto"
    for result in _retry(connection.director, group_id, jobs, policy):
        raw = {"type": "retried", **result.raw}
        connection.show(raw, [_retry_text(result, connection.name_of)], indent=None)
    if not is_watched and folder is None:
        return int(Status.OK)
    return watch_to_end(connection, group_id, options)


def _retry(
    director: Director, group_id: str, jobs: Sequence[str], policy: RetryOptions
) -> Iterator[RetryResult]:
    """Retry a group or some of its jobs; while the group runs, the jobs one by one."""
    if len(jobs) != 1:
        try:
            yield director.retry(group_id, list(jobs) or None, **policy)
        except Conflict as error:
            if error.code != "group_not_finished" or not jobs:
                raise
        else:
            return
    for job in jobs:
        yield director.retry_job(group_id, job, **policy)


def _retry_text(result: RetryResult, name_of: Callable[[str], str]) -> str:
    number = pluralize(len(result.job_ids), "job")
    adopted = len(result.adopted_job_ids)
    had = f", {adopted} had a result after all" if adopted else ""
    moved = "".join(
        f"\n  {job} on {name_of(backend_id)}" for job, backend_id in result.moved.items()
    )
    group_id = result.job_group_id
    return (
        f"{group_id}: {number} queued again{had}, run {result.run}. See: director watch "
        f"{group_id}{moved}"
    )


@click.command
@option_types.group_id_argument
@click.argument("job_id", metavar="JOB", type=option_types.identifier)
@click.argument("backend", metavar="BACKEND")
@with_connection
def move(connection: Connection, group_id: str, job_id: str, backend: str) -> None:
    """Move the queued job JOB of the group ID to BACKEND.

    Its prompt is removed from the queue of its old backend first. A job that has started stays.
    """
    target = selection.exactly_one(backend, connection.director.backends())
    result = connection.director.move(group_id, job_id, target.backend_id, by=connection.submitter)
    old = result.removing_from
    first = (
        f", after its prompt is removed from the queue of {connection.name_of(old)}" if old else ""
    )
    line = f"{job_id} is queued on {target.name} now{first}. See: director watch {group_id}"
    if not result.moved:
        line = f"{job_id} is already queued on {target.name}."
    connection.show(result.raw, [line])


@click.command
@option_types.group_id_argument
@click.argument("name", metavar="NAME")
@with_connection
def rename(connection: Connection, group_id: str, name: str) -> None:
    """Set the name of the group ID. An empty NAME removes it: the prompt names the group again."""
    group = connection.director.rename(group_id, name)
    connection.show(group.raw, [f"{group_id} is called {text.plain_line(group.title)}."])


@click.command
@option_types.group_id_argument
@click.argument("level", metavar="PRIORITY", type=click.IntRange(0, 100))
@with_connection
def priority(connection: Connection, group_id: str, level: int) -> None:
    """Set the priority of the group ID, from 0 to 100: of waiting groups, a higher one is first."""
    group = connection.director.prioritize(group_id, level)
    connection.show(group.raw, [f"{group_id} has the priority {group.priority}."])


@click.command("next")
@option_types.group_ids_argument
@click.option("--before", metavar="ID", help="Directly before this group of the same submitter.")
@with_connection
def next_(connection: Connection, group_ids: Sequence[str], before: str | None) -> None:
    """Have groups start next: the jobs of the first one come first.

    Before your other groups; if you are an operator or the Director has no accounts, before all
    groups of the same level.
    """
    with connection.results() as done:
        # The last one that is brought forward is first.
        for name in reversed(group_ids):
            group = connection.director.bring_forward(name, before=before)
            done.append(
                (group.raw, f"{group.job_group_id} is {f'before {before}' if before else 'next'}.")
            )
            before = before and name


@click.command
@click.argument("name", metavar="NAME")
@click.argument("value", metavar="[WEIGHT]", type=click.FloatRange(0.01, 100), required=False)
@with_connection
def weight(connection: Connection, name: str, value: float | None) -> None:
    """Show the weight of the submitter NAME and its use, or set the WEIGHT (1: as all others)."""
    director = connection.director
    submitter = director.submitter(name) if value is None else director.weigh(name, value)
    used = f"{submitter.used_seconds:.0f} s used lately"
    connection.show(
        submitter.raw, [f"{text.plain_line(name)}: weight {submitter.weight:g}, {used}."]
    )


@click.command
@option_types.group_ids_argument
@click.option("--undo", is_flag=True, help="Move them back into the lists.")
@with_connection
def archive(connection: Connection, group_ids: Sequence[str], undo: bool) -> None:
    """Move groups out of the lists. They continue, and are kept as long as others."""
    state = "in the lists again" if undo else "archived"
    with connection.results() as done:
        for name in group_ids:
            group = connection.director.archive(name, archived=not undo)
            done.append((group.raw, f"{group.job_group_id} is {state}."))


@click.command
@option_types.group_ids_argument
@click.option("--undo", is_flag=True, help="Let their own accounts alone see them again.")
@with_connection
def share(connection: Connection, group_ids: Sequence[str], undo: bool) -> None:
    """Let every account see groups, where people see their own work alone."""
    state = "private" if undo else "shared"
    with connection.results() as done:
        for name in group_ids:
            group = connection.director.share(name, shared=not undo)
            done.append((group.raw, f"{group.job_group_id} is {state}."))


@click.command
@option_types.group_ids_argument
@option_types.yes_option
@with_connection
def delete(connection: Connection, group_ids: Sequence[str], yes: bool) -> None:
    """Delete groups that have ended: their jobs, events and the files that the Director has
    captured.

    First it shows what is deleted, and asks. Files at the backends stay there.
    """
    with connection.results() as done:
        if not yes:
            for group_id in group_ids:
                title = text.plain_line(connection.director.status(group_id, jobs=False).title)
                click.echo(
                    f"{group_id} {title}: {_deletion(connection.director.deletion(group_id))}",
                    err=True,
                )
            confirm(f"Delete {pluralize(len(group_ids), 'group')}?", "Nothing was deleted.")
        for group_id in group_ids:
            result = connection.director.delete(group_id)
            done.append(
                ({"id": group_id, **result.raw}, f"{group_id} is deleted: {_deletion(result)}")
            )


def _deletion(what: Deletion) -> str:
    starred = f" ({what.starred} with a star)" if what.starred else ""
    kept = " Files at the backends stay." if what.kept_at_backends else ""
    size = f" of {what.bytes / 2**20:.1f} MiB" if what.files else ""
    return f"{pluralize(what.jobs, 'job')}{starred}, {pluralize(what.files, 'file')}{size}.{kept}"


@click.command("open")
@click.argument("group_id", metavar="[ID]", type=option_types.identifier, required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address only.")
@with_connection
def open_(connection: Connection, group_id: str | None, only_print: bool) -> None:
    """Open the page of the group ID in the browser; without ID, the list of all groups."""
    url = connection.url.rstrip("/") + "/"
    if group_id is not None:
        connection.director.status(group_id, jobs=False)
        url = f"{url}groups/{group_id}"
    connection.show({"url": url}, [url])
    if not only_print and not connection.as_json:
        webbrowser.open(url)
