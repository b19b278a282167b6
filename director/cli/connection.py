"""Speaking to the Director: which one, how long to wait, and what its refusals mean to a person."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import click

from director.cli import environment, option_types
from director.cli.exit_status import CommandError, Status, usage_error
from director.cli.text import plain_line
from director.client import (
    BackendNotFound,
    Director,
    DirectorError,
    GroupNotFound,
    IdempotencyConflict,
    NoOnlineBackends,
    NotAllowed,
    RunnerAbsent,
    UnexpectedAnswer,
    Unreachable,
)
from director.client.transport import DEFAULT_URL, Address

#: How a field of the API is called on the command line.
_OPTIONS: Final = {
    "parameters": "--set",
    "timeout_seconds": "--timeout",
    "base_seed": "--base-seed",
    "seed_strategy": "--seeds",
    "metadata": "--meta",
    "max_attempts": "--max-attempts",
    "retry_elsewhere": "--elsewhere",
    "retry_on": "--retry-on",
    "partial_outputs": "--partial-outputs",
    "required_capabilities": "--requires",
    "workflow_json": "workflow",
    "submitter": "DIRECTOR_SUBMITTER",
    "backend_ids": "--backend",
    "job_ids": "--job",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """What every command is told: which Director, and whether a program reads the answer."""

    url: str
    token: str | None
    as_json: bool

    def show(self, value: Any) -> None:
        """Print a JSON value."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))

    def show_line(self, value: Any) -> None:
        """Print a JSON value on a line of its own, at once."""
        click.echo(json.dumps(value, ensure_ascii=False))

    @contextmanager
    def director(self) -> Iterator[Director]:
        """Connect; what goes wrong with the Director becomes a failure in plain words."""
        try:
            with Director(self.url, self.token) as director:
                yield director
        except DirectorError as error:
            raise failure_of(error, self) from error


def with_connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--server`` and ``--json``, and hand it an :class:`Connection` first."""

    @click.option(
        "--server",
        type=option_types.filled,
        metavar="URL",
        help="Address of the Director (DIRECTOR_URL).",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @click.pass_context
    @functools.wraps(command)
    def connection(
        ctx: click.Context, /, *args: Any, server: str | None, as_json: bool, **options: Any
    ) -> Any:
        before = ctx.find_root().obj or {}
        url = server or before.get("server") or environment.server() or DEFAULT_URL
        is_json = as_json or bool(before.get("as_json"))
        return command(Connection(_address(url), _token(), is_json), *args, **options)

    return connection


def _address(url: str) -> str:
    """Return an address with its scheme; ``gpu-host:9820`` is what people type."""
    url = url if "://" in url else f"http://{url}"
    try:
        Address.parse(url, None)
    except ValueError:
        raise usage_error(
            f"--server (or DIRECTOR_URL) is {url!r}, which is no address.",
            f"Write it like {DEFAULT_URL}.",
        ) from None
    return url


def _token() -> str | None:
    token = environment.token()
    try:
        Address.parse(DEFAULT_URL, token)
    except ValueError:
        raise usage_error(
            "DIRECTOR_TOKEN has signs that no Director's token has.",
            "A token has letters, digits and signs only, without blanks and line breaks.",
        ) from None
    return token


# --- what went wrong ------------------------------------------------------------------------------


def failure_of(error: DirectorError, connection: Connection) -> CommandError:
    """Return the failure that tells a person what an error of the client means."""
    said = {"code": error.code, "errors": [_named(e.field, e.message) for e in error.errors]}
    message, status, hint = _error_text(error, connection)
    return CommandError(message, status, hint=hint, details=said)


#: What is said instead of the Director's own words (None), and what to type next.
_KNOWN: Final[tuple[tuple[type[DirectorError], str | None, Status, str], ...]] = (
    (
        RunnerAbsent,
        "The Director has no runner that could do the work; nothing was stored.",
        Status.UNREACHABLE,
        "Start one where the Director runs: director runner. Look closer: director doctor.",
    ),
    (
        IdempotencyConflict,
        None,
        Status.REFUSED,
        "The group that it made: director list --mine. Did --all or --count mean other backends then?",
    ),
    (GroupNotFound, None, Status.REFUSED, "director list shows the newest groups."),
    (BackendNotFound, None, Status.REFUSED, "director backends shows all of them."),
)


def _error_text(error: DirectorError, connection: Connection) -> tuple[str, Status, str]:
    """Return what happened, how to exit, and what to type next."""
    if isinstance(error, Unreachable):
        return _unreachable(error, connection)
    if isinstance(error, NotAllowed) and error.code == "sign_in_required":
        return _not_signed_in(connection)
    for kind, message, status, hint in _KNOWN:
        if isinstance(error, kind):
            return message or error.detail, status, hint
    if isinstance(error, UnexpectedAnswer) or (error.code is None and error.status is not None):
        return _not_a_director(error, connection)
    if error.transient:
        return str(error), Status.UNREACHABLE, "Later it may work; director doctor looks closer."
    return _in_words(error)


def _unreachable(error: Unreachable, connection: Connection) -> tuple[str, Status, str]:
    is_default = connection.url.rstrip("/") == DEFAULT_URL
    hint = (
        "Start one with director serve, or say where it is: --server URL, or DIRECTOR_URL."
        if is_default
        else "Is it running, and is that its address? (--server, or DIRECTOR_URL)"
    )
    return error.detail, Status.UNREACHABLE, hint


def _not_signed_in(connection: Connection) -> tuple[str, Status, str]:
    if connection.token is None:
        message = f"The Director at {connection.url} asks for its token."
        return message, Status.REFUSED, "Set DIRECTOR_TOKEN to the one that it was started with."
    message = f"The Director at {connection.url} does not take the token in DIRECTOR_TOKEN."
    return message, Status.REFUSED, "It must be the very one that the Director was started with."


def _not_a_director(error: DirectorError, connection: Connection) -> tuple[str, Status, str]:
    message = f"{connection.url} does not answer as a Director does: {error}"
    hint = "Is that its address? Say another with --server URL, or DIRECTOR_URL."
    return message, Status.UNREACHABLE, hint


def _in_words(error: DirectorError) -> tuple[str, Status, str]:
    """Return what a refusal says, with fields named as the command line names them."""
    if isinstance(error, NoOnlineBackends):
        refused = no_backends_error(error.skipped_backends)
        return refused.message, refused.status, refused.hint
    said = [_named(one.field, one.message) for one in error.errors]
    return "\n".join(said) or str(error), Status.REFUSED, ""


def no_backends_error(reasons: Iterable[tuple[str, str]]) -> CommandError:
    """Return the failure of a submission of which no_backends_error can take a child: backends, and why not."""
    said = dict.fromkeys(plain_line(f"{name}: {why}") for name, why in reasons)
    return CommandError(
        "\n  ".join(["None of these backends can take work now:", *said]),
        Status.REFUSED,
        hint="director backends shows all of them.",
        details={"code": "no_online_backends"},
    )


def _named(field: str, message: str) -> str:
    first, _, rest = field.partition(".")
    option = _OPTIONS.get(first, first)
    return f"{option}{' ' + rest if rest else ''}: {message}"


def closest_match(name: str, known: Iterable[str], hint: str) -> str:
    """Return a sentence with the known names that are like ``name``; else with all, if few."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}? {hint}"
    if names and len(names) <= 10:
        return f"There are {', '.join(names)}. {hint}"
    return hint
