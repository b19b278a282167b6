"""``python manage.py people``: accounts, for the operator of the host."""

import argparse
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User

from director.accounts import people
from director.client.transport import environment_value, with_scheme
from director.server.table_command import TableCommand
from jobgroups.domain.access import Role

_PERSON = [known_role.value for known_role in Role]


def _link(user: User) -> str:
    """Return a link for the password of an account, at the address that clients have, too."""
    url = environment_value("DIRECTOR_URL")
    base = settings.DIRECTOR_PUBLIC_URL or (url and with_scheme(url)) or ""
    return people.password_link(user, base.rstrip("/"))


class Command(TableCommand):
    help = (
        "List accounts, add one, change its role, disable or enable it, or make a link for its "
        "password."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: manage.py people add anna --role artist, manage.py people link anna"
        )
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="print all accounts")
        add = actions.add_parser("add", help="add an account, and print a link for its password")
        add.add_argument("name")
        add.add_argument("--role", choices=_PERSON, required=True)
        role = actions.add_parser("role", help="change the role of an account")
        role.add_argument("name")
        role.add_argument("role", choices=_PERSON)
        for action, text in (
            ("disable", "refuse its sessions and tokens"),
            ("enable", "end that"),
            ("link", "print a one-time link for a new password"),
        ):
            actions.add_parser(action, help=text).add_argument("name")

    def run(self, *, action: str, name: str = "", role: str = "", **_: Any) -> None:
        if action == "list":
            for user in people.people():
                state = "" if user.is_active else "  disabled"
                self.stdout.write(f"{user.username}  {people.role_of(user)}{state}")
            return
        if action == "add":
            user = people.person_add(name, Role(role))
            if role != Role.SERVICE:
                self.stdout.write("This link sets the password, once and within three days:")
                self.stdout.write(_link(user))
        elif action == "link":
            self.stdout.write(_link(people.person_named(name)))
        elif action == "role":
            people.person_change(name, role=Role(role))
        else:
            people.person_change(name, is_active=action == "enable")
