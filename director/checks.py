"""System check for misspelt settings."""

import difflib
from typing import Any

from django.conf import settings
from django.core import checks


@checks.register()
def unknown_settings(*_: Any, **__: Any) -> list[checks.CheckMessage]:
    """Warn about variables that look like settings but have no effect."""
    return [checks.Warning(_sentence(name), id="director.W001") for name in settings.DIRECTOR_UNKNOWN_SETTINGS]


def _sentence(name: str) -> str:
    near = difflib.get_close_matches(name, settings.DIRECTOR_SETTINGS, n=1, cutoff=0.75)
    meant = f"did you mean {near[0]}?" if near else "docs/settings.md lists all settings."
    return f"{name} is not a setting; {meant}"
