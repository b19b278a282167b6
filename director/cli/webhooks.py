"""``director webhooks``: the deliveries of events, their replay, and test messages."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import click

from director.cli import option_types, text
from director.cli.connection import Connection, with_connection
from director.cli.exit_status import CommandError, Status
from director.client import Delivery


@click.group
@option_types.connection_options
def webhooks() -> None:
    """Events that the Director posts to URLs."""


@webhooks.command("list")
@click.option("--group", type=option_types.identifier, metavar="ID", help="Only of this group.")
@click.option(
    "--state", type=click.Choice(["pending", "delivered", "given_up"]), help="Only in this state."
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Maximum number of them.",
)
@with_connection
def list_(connection: Connection, group: str | None, state: str | None, limit: int) -> None:
    """List the deliveries of the last 30 days, newest first."""
    _show(connection, islice(connection.director.webhooks.list(group=group, state=state), limit))


@webhooks.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.IntRange(1))
@with_connection
def replay(connection: Connection, ids: Sequence[int]) -> None:
    """Send deliveries again, in the order of their groups."""
    _show(connection, [connection.director.webhooks.replay(one) for one in ids])


@webhooks.command()
@click.argument("url", type=option_types.filled)
@with_connection
def test(connection: Connection, url: str) -> int:
    """Send a signed test message to URL, and show the answer."""
    found = connection.director.webhooks.test(url)
    if not found.delivered and not connection.as_json:
        raise CommandError(
            f"Not delivered: {found.error}", Status.REFUSED, hint=text.plain_line(found.answer)
        )
    connection.show(
        found.raw, [f"Delivered: {found.status} {text.plain_line(found.answer)}".rstrip()]
    )
    return int(Status.OK if found.delivered else Status.REFUSED)


def _show(connection: Connection, found: Iterable[Delivery]) -> None:
    rows = list(found)
    heads = ("ID", "STATE", "GROUP", "EVENT", "TRIES", "STORED", "NEXT", "URL", "ERROR")
    columns = [
        (
            *(
                one.id,
                one.state.replace("_", " "),
                one.job_group_id,
                f"{one.seq} {one.type}",
                one.attempts,
            ),
            *(text.local(one.created_at), text.local(one.next_attempt_at), one.url, one.last_error),
        )
        for one in rows
    ]
    raw: list[dict[str, Any]] = [one.raw for one in rows]
    connection.show(raw, text.columns(heads, columns), empty="There are no deliveries.")
