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
@option_types.limit_option(50, "deliveries")
@with_connection
def list_(connection: Connection, group: str | None, state: str | None, limit: int) -> None:
    """List the deliveries of the last 30 days, newest first."""
    _show(connection, islice(connection.director.webhooks.list(group=group, state=state), limit))


@webhooks.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.IntRange(1))
@with_connection
def replay(connection: Connection, ids: Sequence[int]) -> None:
    """Send deliveries again, in the order of their groups."""
    _show(connection, [connection.director.webhooks.replay(delivery_id) for delivery_id in ids])


@webhooks.command()
@click.argument("url", type=option_types.require_text)
@with_connection
def test(connection: Connection, url: str) -> int:
    """Send a signed test message to URL, and show the answer."""
    delivery = connection.director.webhooks.test(url)
    if not delivery.delivered and not connection.as_json:
        raise CommandError(
            f"Not delivered: {delivery.error}",
            Status.REFUSED,
            hint=text.plain_line(delivery.answer),
        )
    connection.show(
        delivery.raw, [f"Delivered: {delivery.status} {text.plain_line(delivery.answer)}".rstrip()]
    )
    return int(Status.OK if delivery.delivered else Status.REFUSED)


def _show(connection: Connection, deliveries: Iterable[Delivery]) -> None:
    rows = list(deliveries)
    heads = ("ID", "STATE", "GROUP", "EVENT", "TRIES", "STORED", "NEXT", "URL", "ERROR")
    columns = [
        (
            *(
                delivery.id,
                delivery.state.replace("_", " "),
                delivery.job_group_id,
                f"{delivery.seq} {delivery.type}",
                delivery.attempts,
            ),
            *(
                text.local(delivery.created_at),
                text.local(delivery.next_attempt_at),
                delivery.url,
                delivery.last_error,
            ),
        )
        for delivery in rows
    ]
    raw: list[dict[str, Any]] = [delivery.raw for delivery in rows]
    connection.show(raw, text.columns(heads, columns), empty="There are no deliveries.")
