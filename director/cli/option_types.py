"""Arguments, options and their types: ``KEY=VALUE``, ages, dates. Pure except for ``@files``."""

import datetime as dt
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click

from director.cli.exit_status import usage_error

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)
_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``--set``: ``3.cfg=7``, ``text=a red fox``, ``text=@prompt.txt``.

    A value is parsed as JSON if it is JSON (``7``, ``true``, ``"7"``), else it is text. ``@`` reads
    the text of a file, without the line break at its end; ``@@`` is an ``@``. Raises
    ``CommandError`` if a pair has no value, or its file cannot be read.
    """
    return {key: _parameter(key, text) for key, text in split_pairs("--set", pairs)}


def metadata(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``--meta``: ``scene=shot_001``, ``panel_id=3``.

    A value is parsed as JSON only if that keeps its text: ``version=1.10`` stays ``1.10``.
    """
    return {key: note(text) for key, text in split_pairs("--meta", pairs)}


def split_pairs(option: str, pairs: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield key and text of each ``KEY=VALUE``; raise ``CommandError`` for one without a value."""
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise usage_error(f"{option} {pair!r} has no value.", f"Write {option} NAME=VALUE.")
        yield key.strip(), text


def _parameter(key: str, text: str) -> Any:
    if text.startswith("@@"):
        return text[1:]
    if text.startswith("@"):
        return _file_text(key, Path(text[1:]))
    return json_or_text(text)


def _file_text(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise usage_error(f"--set {key}: {path} is not text in UTF-8.") from None
    except OSError as error:
        hint = f"A value that begins with @ is the name of a file; write {key}=@@… for an @ itself."
        raise usage_error(f"--set {key}: {path} cannot be read: {error.strerror}.", hint) from None


def json_or_text(text: str) -> Any:
    """Return a text as JSON if it is JSON, else unchanged."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def note(text: str) -> Any:
    """Return a text as a value of metadata; see ``metadata``."""
    value = json_or_text(text)
    is_kept = isinstance(value, dict | list) or json.dumps(value, ensure_ascii=False) == text
    return value if is_kept else text


def _refuse(constant: str) -> Any:
    """Refuse NaN and the infinities, which are not JSON."""
    raise ValueError(constant)


def identifier(text: str) -> str:
    """Return an id, also from the address of a page; see ``filled``."""
    return require_text(text.strip().rstrip("/").rsplit("/", maxsplit=1)[-1])


def require_text(text: str) -> str:
    """Return a text unchanged; raise ``BadParameter`` if it is empty.

    An unset variable of a script must not mean the default (localhost, a new key, any backend).
    """
    if not text.strip():
        raise click.BadParameter("It is empty; is the variable set?")
    return text


def key(text: str) -> str:
    """Return an idempotency key; raise ``BadParameter`` if it is empty, or the Director accepts no
    such key.
    """
    if not _KEY.fullmatch(require_text(text)):
        raise click.BadParameter("It may have 255 letters, digits and signs, all of them ASCII.")
    return text


def folder(text: str) -> Path:
    """Return a folder, which need not exist; see ``filled``."""
    return Path(require_text(text))


def age(text: str) -> dt.timedelta:
    """Return how long ``90s``, ``30m``, ``1h``, ``2d`` or ``3w`` is; raise ``ValueError`` or
    ``OverflowError``.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    return dt.timedelta(**{_UNITS[match[2].lower()]: float(match[1])})


def moment(text: str) -> dt.datetime:
    """Return a time: an age (``90s``, ``30m``, ``2d``), or a local date or time; else raise
    ``BadParameter``.
    """
    text = text.strip()
    try:
        if _AGE.fullmatch(text):
            return dt.datetime.now(dt.UTC) - age(text)
        return dt.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is not an age like 30m, 1h, 2d, and not a date like 2026-02-01."
        ) from None


def later(text: str, today: dt.datetime | None = None) -> dt.datetime:
    """Return a time to come: ``now``, a while from now (``30m``, ``2d``), a local time of today or
    tomorrow (``18:30``), or a local date or time; else raise ``BadParameter``.
    """
    text, today = text.strip(), today or dt.datetime.now()  # noqa: DTZ005 its ``fold``
    try:
        if text == "now":
            return today.astimezone()
        if _AGE.fullmatch(text):
            return today.astimezone() + age(text)
        if re.fullmatch(r"\d\d:\d\d", text):
            # Tomorrow may have another offset from UTC, and an hour be there twice.
            clock = dt.time.fromisoformat(text).replace(fold=today.fold)
            days = dt.timedelta(days=clock <= today.time())
            moment = dt.datetime.combine(today + days, clock)
        else:
            moment = dt.datetime.fromisoformat(text)
        # Of a time that no clock shows, ``astimezone`` alone would make an earlier one.
        return dt.datetime.fromtimestamp(moment.timestamp(), dt.UTC).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is not a while like 30m, 1h, 2d, not a time like 18:30 and not a date like "
            "2026-02-01T08:00."
        ) from None


def any_number(text: str) -> int:
    """Return a positive number, 0 for ``any``; else raise ``BadParameter``."""
    if text.strip() == "any":
        return 0
    if not re.fullmatch("[1-9][0-9]{0,5}", text.strip()):
        raise click.BadParameter(f"{text!r} is not a number from 1 to 999999, and not any.")
    return int(text)


def limit_option(default: int, rows: str) -> Callable[[Any], Any]:
    return click.option(
        "-n",
        "--limit",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help=f"Maximum number of {rows}.",
    )


def metadata_option(help_text: str) -> Callable[[Any], Any]:
    return click.option(
        "--meta",
        "metadata",
        multiple=True,
        metavar="KEY=VALUE",
        callback=parse_with(metadata),
        help=help_text,
    )


def stop_when(pairs: Iterable[str]) -> dict[str, int] | None:
    """Return the values of ``--stop-when``: ``completed=4``, ``failed=10``; None without one."""
    limits = dict(split_pairs("--stop-when", pairs))
    for name, number in limits.items():
        if name not in ("completed", "failed") or not re.fullmatch("[1-9][0-9]{0,4}", number):
            raise usage_error(
                f"--stop-when {name}={number} is no condition.", "Write completed=4 or failed=10."
            )
    return {name: int(number) for name, number in limits.items()} or None


def set_option(help_text: str) -> Callable[[Any], Any]:
    return click.option(
        "--set",
        "parameters",
        multiple=True,
        metavar="INPUT=VALUE",
        callback=parse_with(parameters),
        help=help_text,
    )


def parse_with(parse: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Return the callback that gives a command what a function makes of an option."""
    return lambda _context, _option, given: parse(given)


def tags_option(help_text: str) -> Callable[[Any], Any]:
    return click.option(
        "--tag", "tags", multiple=True, type=require_text, metavar="TAG", help=help_text
    )


requires_option: Final = click.option(
    "--requires",
    "required_capabilities",
    multiple=True,
    metavar="CAPABILITY",
    help="A tag, gpu:… or comfyui:… that a backend must have.",
)
group_id_argument: Final = click.argument("group_id", metavar="ID", type=identifier)
group_ids_argument: Final = click.argument(
    "group_ids", metavar="ID...", type=identifier, nargs=-1, required=True
)
yes_option: Final = click.option("--yes", is_flag=True, help="Ask no question.")
jobs_option: Final = click.option(
    "--job",
    "jobs",
    multiple=True,
    type=identifier,
    metavar="JOB",
    help="Only this job of the group; may be repeated.",
)


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Keep an option for the command that is run: it may be given before or after the command's
    name.
    """
    if value:
        context.find_root().ensure_object(dict)[option.name] = value


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--server`` and ``--json``, whose values are in the object of the root context:
    ``server``, ``as_json``.
    """
    address = "Address of the Director (DIRECTOR_URL)."
    server = click.option(
        "--server",
        type=require_text,
        metavar="URL",
        help=address,
        expose_value=False,
        callback=_keep,
    )
    programs = "Print JSON, for programs."
    as_json = click.option(
        "--json", "as_json", is_flag=True, help=programs, expose_value=False, callback=_keep
    )
    return server(as_json(command))
