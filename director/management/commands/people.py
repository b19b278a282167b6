"""``python manage.py people``: accounts, for the operator of the host."""

import argparse
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import CommandError

from director.accounts import people
from director.client.transport import environment_value, with_scheme
from director.server.table_command import TableCommand
from jobgroups.domain.access import Role
from jobgroups.domain.audit import Action
from jobgroups.domain.listener_files import account_owner
from jobgroups.domain.text import pluralize
from jobgroups.queries.user_files import kept_by_owner
from jobgroups.services.audit import record_alone
from jobgroups.services.user_files import MAX_OWNER_BYTES, files_export, files_purge

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
        actions.add_parser("files", help="print what each owner has at the ComfyUI listener")
        whose = "an account, or an owner that files prints"
        export = actions.add_parser("export", help="write these files and settings into a zip file")
        export.add_argument("name", help=whose)
        export.add_argument("file")
        purge = actions.add_parser("purge", help="delete these files and settings")
        purge.add_argument("name", help=whose)

    def run(self, *, action: str, name: str = "", role: str = "", file: str = "", **_: Any) -> None:
        if action in ("files", "export", "purge"):
            self._files(action, name, file)
            return
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

    def _files(self, action: str, name: str, file: str) -> None:
        """Do what concerns files and settings at the ComfyUI listener."""
        if action == "files":
            names = {account_owner(user.pk): user.username for user in User.objects.all()}
            for owner, kept in sorted(kept_by_owner().items()):
                size = f"{kept.size_bytes / 2**20:.1f} MiB of {MAX_OWNER_BYTES // 2**20}"
                saved = f"{pluralize(kept.files, 'file')} ({size})"
                others = (
                    f"{pluralize(kept.uploads, 'upload')}, {pluralize(kept.settings, 'setting')}"
                )
                self.stdout.write(f"{names.get(owner, owner)}  {saved}, {others}")
        elif action == "export":
            owner = _owner(name)
            try:
                with Path(file).open("xb") as target:
                    count = files_export(owner, target)
            except OSError as error:
                raise CommandError(f"{file} cannot be written: {error.strerror}.") from None
            self.stdout.write(f"{pluralize(count, 'file')} and the settings are in {file}.")
        else:
            files_purge(_owner(name))
            record_alone(Action.PERSON_CHANGED, name, files_purged=True)


def _owner(name: str) -> str:
    """Return the key of an owner at the ComfyUI listener, by its account or as it is listed."""
    if name in kept_by_owner():
        return name
    return account_owner(people.person_named(name).pk)
