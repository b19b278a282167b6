"""``python manage.py tokens``: tokens of programs, for the operator of the host."""

import argparse
import datetime as dt
from typing import Any

from director.accounts import tokens
from director.accounts.people import person_named
from director.server.table_command import TableCommand
from jobgroups.domain.access import Scope
from jobgroups.domain.clock import iso, iso_or_none, now


class Command(TableCommand):
    help = "Make a token of an account, list tokens, or revoke one."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: manage.py tokens create nightly --scope submit --name 'nightly renders'"
        )
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser(
            "create", help="make a token; it is on the last line, and shown once"
        )
        create.add_argument("owner", help="name of the account")
        create.add_argument("--scope", choices=[scope.value for scope in Scope], required=True)
        create.add_argument("--name", required=True, help="what it is for")
        create.add_argument("--days", type=int, help="days until it expires (default: never)")
        actions.add_parser("list", help="print all valid tokens")
        actions.add_parser("revoke", help="revoke a token").add_argument("id")

    def run(self, *, action: str, **options: Any) -> None:
        if action == "create":
            days = options["days"]
            expires_at = None if days is None else now() + dt.timedelta(days=days)
            scope, owner = Scope(options["scope"]), person_named(options["owner"])
            _, text = tokens.token_create(
                owner, name=options["name"], scope=scope, expires_at=expires_at
            )
            self.stdout.write(text)
        elif action == "revoke":
            tokens.token_revoke(options["id"], owner_id=None)
        else:
            for token in tokens.valid_tokens().select_related("owner"):
                ends = iso_or_none(token.expires_at) or "never expires"
                self.stdout.write(
                    f"{token.id}  {token.owner.username}  {token.scope}  {iso(token.created_at)}  {ends}  "
                    f"{token.name}"
                )
