"""``director queue``: what runs and what is next; the pause of the farm."""

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import click

from director.cli import option_types, selection, text
from director.cli.backends import Commands
from director.cli.connection import Connection, with_connection
from director.cli.pauses import pause_options
from director.client import QueueRow

_HEADS = ("PLACE", "ID", "SUBMITTER", "LEVEL", "RUNNING", "QUEUED", "STARTS", "REASON")
_MOST = 200  #: Groups of one answer.


def _list_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_LIST_OPTIONS):
        command = option(command)
    return command


_LIST_OPTIONS: Final = (
    click.option("--mine", is_flag=True, help="Your groups."),
    click.option("--submitter", metavar="NAME", help="Groups of this submitter."),
    click.option(
        "-b",
        "--backend",
        metavar="NAME",
        help="Groups whose jobs this backend (its name or id) has, or may take.",
    ),
    option_types.limit_option(50, "groups"),
)


@click.group(cls=Commands, invoke_without_command=True)
@option_types.connection_options
@_list_options
@click.pass_context
def queue(ctx: click.Context, /, **options: Any) -> None:
    """Show what runs and what is next, or pause the whole farm. Without a command: show it."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, **options)


@queue.command("list")
@_list_options
@with_connection
def list_(
    connection: Connection, mine: bool, submitter: str | None, backend: str | None, limit: int
) -> None:
    """Show the groups that run and wait, in the order in which they start their next jobs."""
    if mine:
        submitter = connection.own_name()
    backend = selection.filter_id(connection, backend)
    rows: list[QueueRow] = []
    items: list[Any] = []
    while True:
        page = connection.director.queue(
            submitter=submitter,
            backend=backend,
            offset=len(rows),
            limit=min(limit - len(rows), _MOST),
        )
        rows += page.items
        items += page.raw["items"]
        if page.next is None or len(rows) >= limit:
            break
    lines = text.columns(_HEADS, [_cells(row) for row in rows])
    connection.show({**page.raw, "items": items}, lines, empty="No job runs or waits.")


@queue.command("pause")
@pause_options
@with_connection
def pause_queue(connection: Connection, reason: str | None, until: dt.datetime | None) -> None:
    """Pause the whole farm: nothing is sent to any backend. What runs ends."""
    state = connection.director.pause_queue(reason=reason, until=until, by=connection.submitter)
    connection.show(state.raw, [f"The farm is {text.pause(state.paused, 'farm')}."])


@queue.command("resume")
@with_connection
def resume_queue(connection: Connection) -> None:
    """Resume the whole farm."""
    state = connection.director.resume_queue(by=connection.submitter)
    connection.show(state.raw, [f"The farm is {text.pause(state.paused, 'farm')}."])


def _cells(row: QueueRow) -> tuple[object, ...]:
    level = None
    if row.level is not None:
        level = row.level if row.level == row.priority else f"{row.level} ({row.priority})"
    return (
        row.place,
        row.job_group_id,
        row.submitter,
        level,
        row.running,
        row.queued,
        None if row.expected_start is None else text.local(row.expected_start),
        row.waiting_reason,
    )
