"""The project as an app: its commands, checks and static files."""

import difflib
import sqlite3
from typing import Any, Final

from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.admin import autodiscover
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app
from django.core import checks

#: The tag of the checks of a start. The others are of the code: ``manage.py check``.
START: Final = "director"
_OLDEST_SQLITE: Final = (3, 35)


class DirectorAdminConfig(SimpleAdminConfig):
    """Django's admin with the product's own site. ``director.urls`` imports its pages: a runner has
    none.
    """

    default_site = "director.admin.DirectorAdminSite"

    def ready(self) -> None:
        """Call Django's groups of users so: a group of the Director is one of jobs."""
        super().ready()
        options = apps.get_model("auth", "Group")._meta
        options.verbose_name, options.verbose_name_plural = "user group", "user groups"


class DirectorConfig(AppConfig):
    """The Director's own commands and system checks."""

    name = "director"

    def ready(self) -> None:
        """Register the system checks."""
        checks.register(_unknown_settings, START)
        checks.register(_old_sqlite, START)
        checks.register(_admin_pages)


def _unknown_settings(*_: Any, **__: Any) -> list[checks.CheckMessage]:
    """Warn about variables that look like settings but have no effect."""
    return [
        checks.Warning(_sentence(name), id="director.W001")
        for name in settings.DIRECTOR_UNKNOWN_SETTINGS
    ]


def _old_sqlite(*_: Any, **__: Any) -> list[checks.CheckMessage]:
    """Refuse an SQLite without ``RETURNING`` and ``UPDATE … FROM``."""
    if not settings.DIRECTOR_ON_SQLITE or sqlite3.sqlite_version_info >= _OLDEST_SQLITE:
        return []
    oldest = ".".join(map(str, _OLDEST_SQLITE))
    sentence = (
        f"Python has SQLite {sqlite3.sqlite_version}; {oldest} or newer is required. Use a newer "
        "Python."
    )
    return [checks.Error(sentence, id="director.E001")]


def _admin_pages(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    autodiscover()
    return check_admin_app(app_configs)


def _sentence(name: str) -> str:
    near = difflib.get_close_matches(name, settings.DIRECTOR_SETTINGS, n=1, cutoff=0.75)
    meant = f"did you mean {near[0]}?" if near else "docs/settings.md lists all settings."
    return f"{name} is not a setting; {meant}"
