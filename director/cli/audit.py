"""``director audit``: the record of who did what."""

import datetime as dt
from itertools import islice

import click

from director.cli import option_types, text
from director.cli.connection import Connection, with_connection
from jobgroups.domain.audit import AUDIT_FILTERS


@click.command
@click.option(
    "--actor", type=option_types.require_text, metavar="NAME", help="Only of this account."
)
@click.option(
    "--action",
    type=click.Choice(AUDIT_FILTERS),
    metavar="ACTION",
    help="Only this one (backend.paused), or those that begin so (backend).",
)
@click.option(
    "--target",
    type=option_types.require_text,
    metavar="ID",
    help="Only what was done to this id or name.",
)
@click.option(
    "--since", type=option_types.moment, metavar="WHEN", help="Since: 30m, 1h, 2d, 2026-02-01."
)
@option_types.limit_option(50, "actions")
@with_connection
def audit(
    connection: Connection,
    *,
    actor: str | None,
    action: str | None,
    target: str | None,
    since: dt.datetime | None,
    limit: int,
) -> None:
    """Show who did what, newest first. For operators and administrators."""
    entries = list(
        islice(
            connection.director.audit(
                actor=actor, action=action, target=target, created_after=since
            ),
            limit,
        )
    )
    rows = [
        (
            text.local(entry.created_at),
            entry.actor or "-",
            entry.address or "host",
            entry.action,
            entry.target or "",
            text.plain_line(", ".join(f"{name}: {value}" for name, value in entry.details.items())),
        )
        for entry in entries
    ]
    heads = ("WHEN", "WHO", "FROM", "WHAT", "TARGET", "DETAILS")
    connection.show(
        [entry.raw for entry in entries], text.columns(heads, rows), empty="Nothing is recorded."
    )
