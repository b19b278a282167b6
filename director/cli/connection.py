"""The connection of a command to its Director, and the errors of the client for users."""

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import click

from director.cli import credentials, environment, option_types
from director.cli.exit_status import CommandError, Status, usage_error
from director.cli.text import json_text, plain_line
from director.client import Director, DirectorError, UnexpectedAnswer, Unreachable
from director.client.transport import DEFAULT_URL, Address, environment_value, with_scheme
from jobgroups.domain.access import Scope, is_account_token

#: The words of the command line for fields of the API after which no option of the command is
#: called.
_WORDS: Final = {
    "workflow_json": "workflow",
    "submitter": "DIRECTOR_SUBMITTER",
    "backend_ids": "--backend",
    "jobs": "--csv",
    "sweep": "--sweep",
    "job_ids": "--job",
    "retry_elsewhere": "--elsewhere",
}


@dataclass
class Connection:
    """Address and token of the Director, and whether the output is JSON."""

    url: str
    token: str | None
    as_json: bool

    @functools.cached_property
    def director(self) -> Director:
        """The client. It is closed at the end of the command."""
        return click.get_current_context().with_resource(Director(self.url, self.token))

    @property
    def address(self) -> str:
        """The address in the form by which its token is stored."""
        return Address.parse(self.url, None).url

    @property
    def submitter(self) -> str | None:
        """The name to send; None: the Director knows the account of the token."""
        return environment.submitter(self.token)

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        try:
            return {backend.backend_id: backend.name for backend in self.director.backends()}
        except DirectorError:
            return {}  # What the command did is shown all the same.

    def name_of(self, backend_id: str) -> str:
        """Return what users call a backend; of one that was removed its id."""
        return self._names.get(backend_id) or backend_id

    def own_name(self) -> str | None:
        """Return the ``submitter`` of the groups of this user."""
        if not is_account_token(self.token):
            return self.submitter
        account = self.director.whoami()
        is_for_customer = account.scope == Scope.DELEGATE and self.submitter
        return f"{account.name}/{self.submitter}" if is_for_customer else account.name

    def show(
        self, value: Any, lines: Iterable[str], *, empty: str = "", indent: int | None = 2
    ) -> None:
        """Print ``value`` as JSON for programs, or ``lines`` for users; without lines ``empty`` as
        an error.
        """
        if self.as_json:
            click.echo(json_text(value, indent))
        elif text := "\n".join(lines):
            click.echo(text)
        elif empty:
            click.echo(empty, err=True)

    @contextmanager
    def results(self) -> Iterator[list[tuple[Any, str]]]:
        """Print what a command adds, as values and lines; after a refusal what was done before it."""
        done: list[tuple[Any, str]] = []
        try:
            yield done
        finally:
            self.show([value for value, _ in done], [line for _, line in done])


def with_connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--server`` and ``--json`` to a command, whose first argument is a ``Connection``.

    An error of the client becomes a ``CommandError``.
    """

    @option_types.connection_options
    @click.pass_context
    @functools.wraps(command)
    def connected(ctx: click.Context, /, *args: Any, **options: Any) -> Any:
        given = ctx.find_root().ensure_object(dict)
        url = given.get("server") or environment_value("DIRECTOR_URL") or DEFAULT_URL
        address = _address(url)
        token = environment_value("DIRECTOR_TOKEN")
        check_token(token, "DIRECTOR_TOKEN")
        connection = Connection(address, token, as_json=bool(given.get("as_json")))
        connection.token = token or credentials.token_of(connection.address)
        try:
            return command(connection, *args, **options)
        except DirectorError as error:
            raise failure_of(error, connection) from error

    return connected


def _address(url: str) -> str:
    url = with_scheme(url)
    try:
        Address.parse(url, None)
    except ValueError:
        raise usage_error(
            f"--server (or DIRECTOR_URL) is {url!r}, which is not an address.",
            f"Write it like {DEFAULT_URL}.",
        ) from None
    return url


def check_token(token: str | None, name: str) -> None:
    """Raise the error of a command if a text cannot be a token. ``name`` says where it is from."""
    try:
        Address.parse(DEFAULT_URL, token)
    except ValueError:
        raise usage_error(
            f"{name} has characters that a token cannot have.",
            "A token has letters, digits and punctuation, no blanks and no line breaks.",
        ) from None


_NOT_STARTED: Final = (
    "Start one with director serve, or set its address: --server URL, or DIRECTOR_URL."
)
_NOT_THERE: Final = "Is it running, and is this its address? (--server, or DIRECTOR_URL)"
#: What a user does about some errors, by their code.
_HINTS: Final = {
    "idempotency_conflict": "Its group: director list --mine. Did --all mean other backends then?",
    "group_not_found": "director list shows the newest groups.",
    "backend_not_found": "director backends shows all of them.",
}


def failure_of(error: DirectorError, connection: Connection) -> CommandError:
    """Return the error for users of an error of the client."""
    # The Director's reasons, with fields as options of the command line.
    fields = [_name_option(error.field, error.message) for error in error.errors]
    message, status, hint = "\n".join(fields) or str(error), Status.REFUSED, ""
    if isinstance(error, Unreachable):
        is_default = connection.url.rstrip("/") == DEFAULT_URL
        message, status, hint = (
            error.detail,
            Status.UNREACHABLE,
            _NOT_STARTED if is_default else _NOT_THERE,
        )
    elif error.code == "sign_in_required":
        problem, hint = (
            "needs a token",
            "Set DIRECTOR_TOKEN to the Director's token, or store it: director login",
        )
        if connection.token is not None:
            is_set = environment_value("DIRECTOR_TOKEN") is not None
            problem, hint = (
                f"refuses the token {'in DIRECTOR_TOKEN' if is_set else 'of director login'}",
                "It must be the Director's token, or that of an account, which was not revoked.",
            )
        message = f"The Director at {connection.url} {problem}."
    elif error.code == "runner_absent":
        message, status = "The Director has no runner; nothing was stored.", Status.UNREACHABLE
        hint = (
            "Start one on the Director's host: director runner. To find out more: director doctor."
        )
    elif error.code in _HINTS:
        message, hint = error.detail, _HINTS[error.code]
    elif isinstance(error, UnexpectedAnswer) or (error.code is None and error.status is not None):
        message, status = (
            f"{connection.url} does not answer as a Director does: {error}",
            Status.UNREACHABLE,
        )
        hint = "Is this its address? Set another one with --server URL, or DIRECTOR_URL."
    elif error.transient:
        message, status, hint = (
            str(error),
            Status.UNREACHABLE,
            "Try again later, or run director doctor.",
        )
    elif error.code == "no_online_backends":
        refused = no_backends_error(
            (connection.name_of(key), why) for key, why in error.skipped_backends
        )
        message, hint = refused.message, refused.hint
    return CommandError(message, status, hint=hint, details={"code": error.code, "errors": fields})


def no_backends_error(reasons: Iterable[tuple[str, str]]) -> CommandError:
    """Return the error of a submission that no backend can accept: each backend with its reason."""
    lines = dict.fromkeys(plain_line(f"{name}: {why}") for name, why in reasons)
    if not lines:
        return none_registered()
    return CommandError(
        "\n  ".join(["None of these backends can accept jobs now:", *lines]),
        Status.REFUSED,
        hint="director backends shows all of them.",
        details={"code": "no_online_backends"},
    )


def none_registered() -> CommandError:
    """Return the error of a command for which there is no backend."""
    return CommandError(
        "No backend is registered and enabled.",
        Status.REFUSED,
        hint="Register one: director backends add http://HOST:8188"
        "\nOr those on the Director's host: director backends find --add",
        details={"code": "no_online_backends"},
    )


def _name_option(field: str, message: str) -> str:
    first, _, rest = field.partition(".")
    options = [
        param
        for param in click.get_current_context().command.params
        if isinstance(param, click.Option)
    ]
    word = {**_WORDS, **{str(option.name): option.opts[-1] for option in options}}.get(first, first)
    return f"{word}{' ' + rest if rest else ''}: {message}"


def closest_match(name: str, known: Iterable[str], hint: str) -> str:
    """Return a sentence with the known names similar to ``name``; with all of them, if there are
    few.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}? {hint}"
    if names and len(names) <= 10:
        return f"There are {', '.join(names)}. {hint}"
    return hint
