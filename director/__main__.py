"""The one entry point: ``python manage.py``, ``python -m director`` and ``director`` are the same."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the management command that the command line names."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")  # noqa: TID251 Django's own switch
    from django.core.management import execute_from_command_line  # noqa: PLC0415 after the line above

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
