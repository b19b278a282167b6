"""The entry point of ``python manage.py``, ``python -m director`` and ``director``.

Commands for a running Director (``director.cli``) need no Django and start at once; all others are
management commands.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from director.cli import app, output
from director.cli.exit_status import CommandError, Status
from director.server import garbage


def main() -> None:
    """Run the command of the command line, and exit with its status."""
    garbage.collect_rarely()
    arguments = sys.argv[1:]
    program = Path(sys.argv[0]).name
    # ``manage.py check`` is Django's, as in every project; ``director check`` is the command
    # line's.
    if app.is_for(arguments) and not (
        program == "manage.py" and arguments[:1] in (["check"], ["tokens"])
    ):
        garbage.collect_new_objects()
        sys.exit(app.run(arguments))
    if arguments[0] == "manage":
        del arguments[0]
    _manage(["director" if program == "__main__.py" else program, *arguments])


def _manage(argv: Sequence[str]) -> None:
    if "--inherited" in argv and sys.platform != "win32":
        # Before the imports: a process of a ``serve`` that was just killed would have the ports for
        # seconds.
        from director.server.lifeline import end_with_input  # noqa: PLC0415 for processes of ``serve`` alone

        end_with_input()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")  # noqa: TID251 Django's own switch
    import django  # noqa: PLC0415 after the line above
    from django.conf import settings  # noqa: PLC0415 likewise
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415 likewise
    from django.core.management import execute_from_command_line, get_commands  # noqa: PLC0415 likewise
    from django.db import DatabaseError  # noqa: PLC0415 likewise

    try:
        settings.INSTALLED_APPS  # noqa: B018 reading it reads the environment
    except ImproperlyConfigured as error:
        # The user who set the variable gets a sentence, not a traceback.
        _fail(CommandError(str(error), Status.FAILED), argv)
    if argv[1:2] == ["serve"]:
        from director.server import supervise  # noqa: PLC0415 likewise

        supervise.main(argv[2:])
    django.setup()
    name = argv[1] if len(argv) > 1 else "help"
    if name not in get_commands() and name != "help" and not name.startswith("-"):
        _fail(app.unknown_command(name, get_commands()), argv)
    try:
        with output.flushed_output():
            execute_from_command_line(list(argv))
    except CommandError as failure:
        _fail(failure, argv)
    except KeyboardInterrupt:
        sys.exit(int(Status.INTERRUPTED))
    except DatabaseError as error:
        from director.server.startup import explain_error  # noqa: PLC0415 needs loaded apps

        sentence = explain_error(error)
        if sentence is None:
            raise
        _fail(CommandError(sentence, Status.FAILED), argv)


def _fail(failure: CommandError, argv: Sequence[str]) -> NoReturn:
    """Print an error, for programs or for users, and exit."""
    failure.show_json() if "--json" in argv else failure.show()
    sys.exit(int(failure.status))


if __name__ == "__main__":
    main()
