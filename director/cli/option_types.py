"""What is written behind options: ``KEY=VALUE``, ages, moments. Pure but for ``@files``."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from director.cli.exit_status import usage_error

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)
_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Return what ``--set`` says: ``3.cfg=7``, ``text=a red fox``, ``text=@prompt.txt``.

    A value that is JSON is taken as such (``7``, ``true``, ``"7"``), all else is text; ``@`` reads a
    file's text, without the line break at its end, and ``@@`` is an ``@``.

    Raises:
        CommandError: a pair is none, or its file cannot be read.
    """
    return {key: _parameter(key, text) for key, text in _split("--set", pairs)}


def metadata(pairs: Iterable[str]) -> dict[str, Any]:
    """Return what ``--meta`` says: ``scene=shot_001``, ``panel_id=3``.

    Taken as JSON only where nothing of the text is lost: ``version=1.10`` stays ``1.10``.
    """
    return {key: _note(text) for key, text in _split("--meta", pairs)}


def _split(option: str, pairs: Iterable[str]) -> Iterable[tuple[str, str]]:
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
    return _json_or(text)


def _file_text(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise usage_error(f"--set {key}: {path} is not text in UTF-8.") from None
    except OSError as error:
        hint = f"A value that begins with @ names a file; write {key}=@@… for an @ itself."
        raise usage_error(f"--set {key}: {path} cannot be read: {error.strerror}.", hint) from None


def _json_or(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _note(text: str) -> Any:
    value = _json_or(text)
    is_kept = isinstance(value, dict | list) or json.dumps(value, ensure_ascii=False) == text
    return value if is_kept else text


def _refuse(constant: str) -> Any:
    """NaN and the infinities are words, not JSON."""
    raise ValueError(constant)


def identifier(text: str) -> str:
    """Return an id as it was typed, or out of the address of a page that was pasted.

    Raises:
        BadParameter: it is empty, as an unset variable of a script is.
    """
    found = text.strip().rstrip("/").rsplit("/", maxsplit=1)[-1]
    if not found:
        raise click.BadParameter("It is empty; is the variable set?")
    return found


def filled(text: str) -> str:
    """Return a text as it was typed.

    Raises:
        BadParameter: it is empty, as an unset variable of a script is: what is meant when an option
            is left out (this machine, a new key, any backend) is not meant then.
    """
    if not text.strip():
        raise click.BadParameter("It is empty; is the variable set?")
    return text


def key(text: str) -> str:
    """Return an idempotency key.

    Raises:
        BadParameter: it is empty, as :func:`filled` has it, or the Director takes no such key.
    """
    if not _KEY.fullmatch(filled(text)):
        raise click.BadParameter("It may have 255 letters, digits and signs, all of them ASCII.")
    return text


def folder(text: str) -> Path:
    """Return a folder, which need not be there.

    Raises:
        BadParameter: it is empty, as :func:`filled` has it.
    """
    return Path(filled(text))


def age(text: str) -> dt.timedelta:
    """Return how long ``90s``, ``30m``, ``1h``, ``2d`` or ``3w`` is.

    Raises:
        ValueError, OverflowError: it is no such age.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    return dt.timedelta(**{_UNITS[found[2].lower()]: float(found[1])})


def moment(text: str) -> dt.datetime:
    """Return a moment: so long ago (``90s``, ``30m``, ``1h``, ``2d``), or a local date or time.

    Raises:
        BadParameter: it is none.
    """
    text = text.strip()
    try:
        if _AGE.fullmatch(text):
            return dt.datetime.now(dt.UTC) - age(text)
        return dt.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no age like 30m, 1h, 2d, and no date like 2026-02-01."
        ) from None
