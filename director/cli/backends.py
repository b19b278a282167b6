"""``director backends``: the ComfyUIs, by id or by tag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import click

from director.cli import environment, option_types, selection, text
from director.cli.connection import Connection, closest_match, with_connection
from director.cli.exit_status import Status, usage_error
from director.client import Backend, Director, DirectorError, Found

_GIB: Final = 1024**3
#: Characters: more than a sentence of help has.
_WHOLE: Final = 1000


def _examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  director backends {line}" for line in lines)])


class Commands(click.Group):
    """The commands of ``director backends``."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence: click cuts it at one line."""
        rows = [
            (name, command.get_short_help_str(limit=_WHOLE))
            for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; what is none may be meant as a backend."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = closest_match(args[0], self.commands, "director backends --help lists them.")
            raise usage_error(
                f"There is no command 'backends {args[0]}'.",
                f"{hint}\nOf backends with that name: director backends list {args[0]}",
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog="\b\nExamples:\n  director backends\n  director backends add 192.168.100.6:8188 --tag 24gb"
    '\n  director backends pause 24gb --reason "driver update"\n  director backends resume gpu-2\n',
)
@click.option(
    "--server",
    type=option_types.filled,
    metavar="URL",
    help="Address of the Director (DIRECTOR_URL).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def backends(ctx: click.Context, server: str | None, as_json: bool) -> None:
    """The ComfyUIs that the Director knows. Without a command: list them.

    NAME is an id, or a tag for all that have it.
    """
    before = ctx.find_root().obj or {}
    ctx.find_root().obj = {
        "server": server or before.get("server"),
        "as_json": as_json or before.get("as_json"),
    }
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, server=None, as_json=False, names=())


@backends.command("list", epilog=_examples("list", "list 24gb", "list gpu-1 gpu-2 --json"))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@with_connection
def list_(connection: Connection, names: Sequence[str]) -> None:
    """List backends: state, what stands there, and why one is not well."""
    with connection.director() as director:
        known = director.backends()
    shown = selection.by_name(names, known) if names else list(known)
    if connection.as_json:
        connection.show([one.raw for one in shown])
    elif shown:
        click.echo("\n".join(_table(shown)))
    else:
        click.echo("No backend is registered. director backends add http://HOST:8188", err=True)


def _table(shown: Sequence[Backend]) -> list[str]:
    heads = ("ID", "STATE", "OURS", "OTHERS", "VRAM", "COMFYUI", "TAGS", "URL", "WHY")
    rows = [
        (
            one.backend_id,
            one.status,
            str(one.queue_ours),
            str(one.queue_foreign),
            _memory(one),
            one.comfyui_version or "",
            ",".join(one.tags),
            one.url,
            _why(one),
        )
        for one in shown
    ]
    return text.columns(heads, rows, statuses=1)


def _memory(backend: Backend | Found) -> str:
    totals = [one.vram_total for one in backend.devices if one.vram_total]
    return f"{sum(totals) / _GIB:.0f} GB" if totals else ""


def _why(backend: Backend) -> str:
    said = [(backend.status_reason or "").rstrip("."), _since(backend)]
    return ", ".join(filter(None, said))


def _since(backend: Backend) -> str:
    """Return since when a backend does not work; empty where it does."""
    if backend.status in ("online", "busy") or backend.status_since is None:
        return ""
    return f"since {text.local(backend.status_since)}"


# --- registering and looking ----------------------------------------------------------------------


@backends.command(
    epilog=_examples(
        "add 192.168.100.6:8188 --id attic --tag 8gb",
        'add https://farm.example/gpu-7 --name "The one upstairs"',
    )
)
@click.argument("url")
@click.option("--id", "backend_id", help="Its id (else made of host and port).")
@click.option("--name", help="What people call it.")
@click.option("--tag", "tags", multiple=True, help="What --requires and -b may ask for.")
@click.option(
    "--header",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Sent with everything; never shown again.",
)
@click.option("--disabled", is_flag=True, help="Take no work yet.")
@with_connection
def add(
    connection: Connection,
    *,
    url: str,
    backend_id: str | None,
    name: str | None,
    tags: Sequence[str],
    pairs: Sequence[str],
    disabled: bool,
) -> None:
    """Register the ComfyUI at URL (HOST:PORT will do) and look whether it is there."""
    with connection.director() as director:
        made = director.add_backend(
            url,
            backend_id=backend_id,
            name=name,
            tags=list(tags) or None,
            headers=_headers(pairs) or None,
            enabled=False if disabled else None,
        )
    _show(connection, made)


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    said = [pair.partition("=") for pair in pairs]
    if any(not equals for _, equals, _ in said):
        raise usage_error("--header is written NAME=VALUE.")
    return {name.strip(): value for name, _, value in said}


@backends.command(epilog=_examples("find", "find --add"))
@click.option("--add", "is_added", is_flag=True, help="Register those that are not yet.")
@with_connection
def find(connection: Connection, is_added: bool) -> None:
    """Look for ComfyUIs on the Director's own machine, ports 8188 to 8199."""
    with connection.director() as director:
        found = director.find_backends()
        added = {
            one.url: director.add_backend(one.url).backend_id
            for one in found
            if is_added and one.backend_id is None
        }
    if connection.as_json:
        connection.show(
            [{**one.raw, "backend_id": added.get(one.url, one.backend_id)} for one in found]
        )
        return
    for one in found:
        word = "added as" if one.url in added else "known as"
        name = added.get(one.url, one.backend_id)
        known = f"{word} {name}" if name else f"new: director backends add {one.url}"
        click.echo(f"{one.url}  ComfyUI {one.comfyui_version or '?'}  {_memory(one)}  {known}")
    if not found:
        click.echo("No ComfyUI answers on ports 8188 to 8199 of the Director's machine.", err=True)


@backends.command(
    epilog=_examples("found", "found --add localhost:8198", "found --ignore localhost:8199")
)
@click.option("--add", "added", multiple=True, metavar="URL", help="Register this one.")
@click.option("--ignore", "ignored", multiple=True, metavar="URL", help="Offer it no longer.")
@click.option("--unignore", "unignored", multiple=True, metavar="URL", help="Offer it again.")
@with_connection
def found(
    connection: Connection, added: Sequence[str], ignored: Sequence[str], unignored: Sequence[str]
) -> None:
    """List the ComfyUIs that the Director found on its machine and that are not registered."""
    with connection.director() as director:
        made = [director.add_found_backend(url) for url in added]
        for url in ignored:
            director.ignore_backend(url)
        for url in unignored:
            director.unignore_backend(url)
        rows = director.found_backends()
    if connection.as_json:
        connection.show({"added": [one.raw for one in made], "found": [one.raw for one in rows]})
        return
    _show(connection, *made)
    for one in rows:
        version = f"ComfyUI {one.comfyui_version or '?'}"
        todo = "ignored" if one.ignored else f"new: director backends found --add {one.url}"
        click.echo("  ".join(part for part in (one.url, version, _memory(one), todo) if part))
    if not rows:
        click.echo("No ComfyUI that is not registered was found.", err=True)


@backends.command(epilog=_examples("test gpu-1", "test 192.168.100.6:8188"))
@click.argument("name", metavar="URL|NAME")
@with_connection
def test(connection: Connection, name: str) -> int:
    """Ask whether a ComfyUI answers at an address, or at a registered backend. Registers nothing."""
    with connection.director() as director:
        addresses = [one.url for one in director.backends() if name in (one.backend_id, *one.tags)]
        results = [director.test_backend(url) for url in addresses or [name]]
    if connection.as_json:
        connection.show([one.raw for one in results])
    for one in results if not connection.as_json else ():
        well = f"answers: ComfyUI {one.comfyui_version or '?'} {_memory(one)}".rstrip()
        click.echo(f"{one.url} {well if one.ok else f'does not answer: {one.reason}'}")
    return int(Status.OK if all(one.ok for one in results) else Status.FAILED)


@backends.command(epilog=_examples("remove attic"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_connection
def remove(connection: Connection, names: Sequence[str]) -> None:
    """Forget backends. Finished groups keep their ids."""
    with connection.director() as director:
        for one in selection.by_name(names, director.backends()):
            director.delete_backend(one.backend_id)
            if connection.as_json:
                connection.show_line({"type": "removed", "backend_id": one.backend_id})
            else:
                click.echo(f"{one.backend_id} removed")


# --- what a person says of them -------------------------------------------------------------------


@backends.command(epilog=_examples("enable gpu-3", "enable 24gb"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_connection
def enable(connection: Connection, names: Sequence[str]) -> None:
    """Let backends take work again."""
    _each(connection, names, lambda director, one: director.update_backend(one, enabled=True))


@backends.command(epilog=_examples("disable gpu-3"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_connection
def disable(connection: Connection, names: Sequence[str]) -> None:
    """Take backends out: what runs there finishes, what waits for them fails. See drain, pause."""
    _each(connection, names, lambda director, one: director.update_backend(one, enabled=False))


@backends.command(epilog=_examples('pause gpu-1 --reason "driver update"', "pause 24gb --now"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--now", is_flag=True, help="Do not await what renders there: it is given back.")
@click.option("--reason", help="Why, for the others.")
@with_connection
def pause(connection: Connection, names: Sequence[str], now: bool, reason: str | None) -> None:
    """Send nothing more to backends until they are resumed; what waits for them keeps waiting."""
    by = environment.submitter()
    _each(
        connection,
        names,
        lambda director, one: director.pause_backend(one, now=now, reason=reason, by=by),
    )


@backends.command(epilog=_examples("drain attic"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--now", is_flag=True, help="Do not await what renders there: it is given back.")
@click.option("--reason", help="Why, for the others.")
@with_connection
def drain(connection: Connection, names: Sequence[str], now: bool, reason: str | None) -> None:
    """Empty backends, then disable them: for a machine that is to be switched off."""
    by = environment.submitter()
    _each(
        connection,
        names,
        lambda director, one: director.drain_backend(one, now=now, reason=reason, by=by),
    )


@backends.command(epilog=_examples("resume gpu-1", "resume 24gb"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_connection
def resume(connection: Connection, names: Sequence[str]) -> None:
    """End a pause or a drain."""
    by = environment.submitter()
    _each(connection, names, lambda director, one: director.resume_backend(one, by=by))


@backends.command(epilog=_examples("quarantine gpu-2 --minutes 30"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--reason", help="Why, for the others.")
@click.option(
    "--minutes", type=click.IntRange(1), help="Until it is tried again (else until released)."
)
@with_connection
def quarantine(
    connection: Connection, names: Sequence[str], reason: str | None, minutes: int | None
) -> None:
    """Set backends aside that fail too often; the Director does so by itself, too."""
    by = environment.submitter()
    _each(
        connection,
        names,
        lambda director, one: director.quarantine_backend(
            one, reason=reason, minutes=minutes, by=by
        ),
    )


@backends.command(epilog=_examples("release gpu-2"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_connection
def release(connection: Connection, names: Sequence[str]) -> None:
    """End a quarantine before its time."""
    by = environment.submitter()
    _each(connection, names, lambda director, one: director.release_backend(one, by=by))


def _each(
    connection: Connection, names: Sequence[str], act: Callable[[Director, str], Backend]
) -> None:
    """Do the same to each backend that is named; show what it is then.

    Raises:
        CommandError: one refused. Those before it were changed, and shown.
    """
    done: list[Backend] = []
    with connection.director() as director:
        for one in selection.by_name(names, director.backends()):
            try:
                done.append(act(director, one.backend_id))
            except DirectorError:
                _show(connection, *done)
                raise
    _show(connection, *done)


def _show(connection: Connection, *shown: Backend) -> None:
    if connection.as_json:
        connection.show([one.raw for one in shown])
        return
    for one in shown:
        since = f" {since}" if (since := _since(one)) else ""
        why = f": {one.status_reason}" if one.status_reason else ""
        click.echo(f"{one.backend_id} is {text.coloured(one.status)}{since}{why}")
