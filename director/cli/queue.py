"""``director queue``: what runs and what is next."""

from typing import Any

import click

from director.cli import option_types, text
from director.cli.connection import Connection, with_connection
from director.client import QueueRow

_HEADS = ("PLACE", "ID", "SUBMITTER", "LEVEL", "RUNNING", "QUEUED", "STARTS", "REASON")
_MOST = 200  #: Groups of one answer.


@click.command
@click.option("--mine", is_flag=True, help="Your groups.")
@click.option("--submitter", metavar="NAME", help="Groups of this submitter.")
@click.option(
    "-b", "--backend", metavar="ID", help="Groups whose jobs this backend has, or may take."
)
@option_types.limit_option(50, "groups")
@with_connection
def queue(
    connection: Connection, mine: bool, submitter: str | None, backend: str | None, limit: int
) -> None:
    """Show the groups that run and wait, in the order in which they start their next jobs."""
    if mine:
        submitter = connection.own_name()
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
