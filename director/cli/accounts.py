"""``director login``, ``whoami`` and ``tokens``: the account of the client, and its tokens."""

import datetime as dt
import sys

import click

from director.cli import credentials, option_types, text
from director.cli.connection import Connection, check_token, with_connection
from director.client import Director
from jobgroups.domain.access import Scope


@click.command
@with_connection
def whoami(connection: Connection) -> None:
    """Show the account, its role, and what the token may do."""
    identity = connection.director.whoami()
    line = (
        f"{identity.name}: {identity.role}, may {identity.right}"
        if identity.name
        else "This Director has no accounts."
    )
    connection.show(identity.raw, [line])


@click.command
@with_connection
def login(connection: Connection) -> None:
    """Store a token for this address, which the later commands and director mcp send.

    It is read from the terminal, or from standard input.
    """
    page = f"{connection.url.rstrip('/')}/account"
    if sys.stdin.isatty():
        click.echo(f"Make a token at {page}", err=True)
        token = click.prompt("Token", hide_input=True, err=True).strip()
    else:
        token = sys.stdin.readline().strip()
    check_token(token, "The token")
    with Director(connection.url, token) as director:
        account = director.whoami()
    place = credentials.store(connection.address, token)
    name = account.name or "This Director has no accounts"
    connection.show(
        {"name": account.name, "role": account.role, "stored_in": place},
        [f"{name}: the token for {connection.url} is in {place}."],
    )


@click.command
@with_connection
def logout(connection: Connection) -> None:
    """Remove the stored token for this address. It stays valid until it is revoked."""
    had = credentials.forget(connection.address)
    line = "The stored token is removed." if had else "No token was stored."
    connection.show({"removed": had}, [f"{connection.url}: {line}"])


@click.group
@option_types.connection_options
def tokens() -> None:
    """Tokens of the account, one for each program."""


@tokens.command("list")
@with_connection
def list_(connection: Connection) -> None:
    """List the valid tokens, newest first."""
    entries = connection.director.tokens.list()
    rows = [
        (
            token.id,
            token.scope,
            text.local(token.created_at),
            text.local(token.expires_at),
            text.local(token.used_at),
            token.name,
        )
        for token in entries
    ]
    heads = ("ID", "SCOPE", "MADE", "EXPIRES", "USED", "NAME")
    connection.show(
        [token.raw for token in entries], text.columns(heads, rows), empty="There are no tokens."
    )


@tokens.command()
@click.argument("name", type=option_types.require_text)
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    required=True,
    help="What it may do.",
)
@click.option(
    "--days", type=click.IntRange(1, 3650), help="Days until it expires; by default it does not."
)
@with_connection
def create(connection: Connection, name: str, scope: str, days: int | None) -> None:
    """Make a token called NAME. Its text is the last line, and shown this once."""
    expires_at = None if days is None else dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    made = connection.director.tokens.create(name, scope, expires_at=expires_at)
    connection.show(made.raw, [made.token])


@tokens.command()
@click.argument("token_id", metavar="ID", type=option_types.identifier)
@with_connection
def revoke(connection: Connection, token_id: str) -> None:
    """Revoke a token, and those that it made."""
    connection.director.tokens.revoke(token_id)
    connection.show({"revoked": token_id}, [f"{token_id} is revoked."])
