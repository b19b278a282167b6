"""The one entry point: ``python manage.py``, ``python -m director`` and ``director`` are the same."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the management command that the command line names."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")  # noqa: TID251 Django's own switch
    from django.conf import settings  # noqa: PLC0415 after the line above
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415 likewise
    from django.core.management import execute_from_command_line  # noqa: PLC0415 likewise
    from django.db import OperationalError  # noqa: PLC0415 likewise

    try:
        settings.INSTALLED_APPS  # noqa: B018 reading it reads the environment
    except ImproperlyConfigured as error:
        # A sentence, not a traceback: whoever set the variable can set it right.
        sys.exit(f"Error: {error}")
    try:
        execute_from_command_line(sys.argv)
    except OperationalError as error:
        if "unable to open database file" not in str(error):
            raise
        sys.exit(
            f"Error: The database {settings.DATABASES['default']['NAME']} does not open. It is made"
            " by serve; set DIRECTOR_DATA_DIR (or DIRECTOR_DATABASE_URL) here as it is set there."
        )


if __name__ == "__main__":
    main()
