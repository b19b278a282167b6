"""The commands by name. Each is loaded when it is run, so that ``--help`` imports no HTTP client."""

import difflib
import importlib
import io
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from director import __version__
from director.cli import option_types, output
from director.cli.environment import is_colourless
from director.cli.exit_status import CommandError, Status, usage_error

_COMMANDS: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("commands.toml").read_text(encoding="utf-8")
)
_CLIENT: Final = _COMMANDS["running"]
_LOCAL: Final = _COMMANDS["host"]


def _examples(lines: Sequence[str]) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class Commands(click.Group):
    """The commands for a running Director. Their modules are imported when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_CLIENT)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _CLIENT:
            return None
        known = _CLIENT[cmd_name]
        module, _, name = known["runs"].partition(":")
        command = getattr(importlib.import_module(f"director.cli.{module}"), name)
        assert isinstance(command, click.Command)  # noqa: S101 the file names commands
        command.epilog = _examples(known["examples"])
        if isinstance(command, click.Group):
            for name, examples in known.get("commands", {}).items():
                command.commands[name].epilog = _examples(examples)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in _LOCAL:
            raise usage_error(
                f"{args[0]} is a command of this host: write director {args[0]} first."
            )
        if args[0] not in _CLIENT:
            raise unknown_command(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("With a running Director"):
            formatter.write_dl([(name, known["summary"]) for name, known in _CLIENT.items()])
        with formatter.section("On this host"):
            formatter.write_dl(list(_LOCAL.items()))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options; ``--help`` is printed here."""
        with output.flushed_output():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with output.flushed_output():
            return super().invoke(ctx)


def unknown_command(name: str, others: Iterable[str] = ()) -> CommandError:
    """Return the error for an unknown command, with similar names."""
    near = difflib.get_close_matches(name, {*_CLIENT, *_LOCAL, *others}, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return usage_error(f"There is no command {name!r}.{hint}", "director --help lists them.")


@click.command(
    cls=Commands,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="director COMMAND --help shows examples. Address of the Director: --server, or "
    "DIRECTOR_URL;"
    " its token, if it has one: DIRECTOR_TOKEN. See docs/cli.md.",
)
@option_types.connection_options
@click.version_option(__version__, prog_name="director", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """The Director: one call, many GPUs, nothing lost."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def is_for(arguments: Sequence[str]) -> bool:
    """Return whether a command line is a command for a running Director, or help."""
    return not arguments or arguments[0] in _CLIENT or arguments[0].startswith("-")


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A question mark for a character that the terminal does not have.
            stream.reconfigure(errors="replace")
    as_json = "--json" in arguments
    try:
        result = app.main(
            args=list(arguments),
            prog_name="director",
            standalone_mode=False,
            color=False if is_colourless() else None,
        )
    except CommandError as failure:
        failure.show_json() if as_json else failure.show()
        return int(failure.status)
    except click.ClickException as error:
        _usage_error(error).show_json() if as_json else error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return int(Status.INTERRUPTED)
    return result if isinstance(result, int) else int(Status.OK)


def _usage_error(error: click.ClickException) -> CommandError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "director"
    return usage_error(error.format_message(), f"{command} --help")
