"""``director backends``: the ComfyUIs, by id or by tag."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from director.cli import option_types, selection, text
from director.cli.connection import Connection, closest_match, with_connection
from director.cli.exit_status import Status, confirm, usage_error
from director.client import Backend, Found
from jobgroups.domain.text import pluralize

_GIB: Final = 1024**3
#: Longer than any sentence of the help.
_UNLIMITED: Final = 1000


class Commands(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence: click cuts it at one line."""
        rows = [
            (name, command.get_short_help_str(limit=_UNLIMITED))
            for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            own = f"{self.name} {args[0]}"
            hint = closest_match(args[0], self.commands, f"director {self.name} --help lists them.")
            if self.name == "backends":
                hint += f"\nFor a backend of this name: director backends list {args[0]}"
            raise usage_error(f"There is no command '{own}'.", hint)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, invoke_without_command=True)
@option_types.connection_options
@click.pass_context
def backends(ctx: click.Context) -> None:
    """The registered ComfyUIs. Without a command: list them.

    NAME is an id, a name as the pages show it, or a tag for all backends with this tag.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, names=())


@backends.command("list")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@with_connection
def list_(connection: Connection, names: Sequence[str]) -> None:
    """List backends: status, queued and running jobs, seconds per job of the last hour, completed
    and failed jobs of the last day, and the reason of a status.
    """
    known = connection.director.backends()
    listed = selection.by_name(names, known) if names else list(known)
    heads = (
        *("ID", "NAME", "STATUS", "JOBS", "OTHERS", "S/JOB", "DONE", "FAILED", "MARKS"),
        *("VRAM", "COMFYUI", "TAGS", "URL", "REASON"),
    )
    rows = [
        (
            backend.backend_id,
            backend.name,
            backend.status,
            backend.queue_ours,
            backend.queue_foreign,
            "" if backend.seconds_per_job is None else backend.seconds_per_job,
            backend.completed_day,
            backend.failed_day,
            ",".join(mark for mark in ("slow", "flaky") if getattr(backend, mark)),
            _memory(backend),
            backend.comfyui_version,
            ",".join(backend.tags),
            backend.url,
            ", ".join(filter(None, [(backend.status_reason or "").rstrip("."), _since(backend)])),
        )
        for backend in listed
    ]
    connection.show(
        [backend.raw for backend in listed],
        text.columns(heads, rows, statuses=2),
        empty="No backend is registered. director backends add http://HOST:8188",
    )


def _memory(backend: Backend | Found) -> str:
    totals = [device.vram_total for device in backend.devices if device.vram_total]
    return f"{sum(totals) / _GIB:.0f} GB" if totals else ""


def _since(backend: Backend) -> str:
    """Return since when a backend is not available; empty if it is."""
    if backend.status in ("online", "busy") or backend.status_since is None:
        return ""
    return f"since {text.local(backend.status_since)}"


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    parts = [pair.partition("=") for pair in pairs]
    if any(not equals for _, equals, _ in parts):
        raise usage_error("--header is written NAME=VALUE.")
    return {name.strip(): value for name, _, value in parts}


@backends.command()
@click.argument("url")
@click.option("--id", "backend_id", help="Its id (default: derived from host and port).")
@click.option("--name", help="Display name.")
@click.option("--tag", "tags", multiple=True, help="Tag for --requires and -b; may be repeated.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    callback=option_types.parse_with(_headers),
    help="Sent with every request; never shown again.",
)
@click.option("--disabled", is_flag=True, help="Send it no jobs yet.")
@click.option(
    "--partner-nodes",
    "partner_nodes_allowed",
    is_flag=True,
    help="It may get the API key for partner nodes.",
)
@click.option(
    "--extensions",
    "extensions_allowed",
    is_flag=True,
    help="Scripts of its custom nodes may act as the users of ComfyUI's editor.",
)
@click.option("--hours", help="When it takes jobs: mon-fri 19:00-07:00; sat-sun.")
@click.option("--time-zone", help="Of its hours: Europe/Berlin (default: UTC).")
@with_connection
def add(connection: Connection, *, url: str, disabled: bool, **fields: Any) -> None:
    """Register the ComfyUI at URL (or HOST:PORT) and probe it."""
    given = {name: value for name, value in fields.items() if value not in (None, (), {}, False)}
    if disabled:
        given["enabled"] = False
    added = connection.director.add_backend(url, **given)
    connection.show([added.raw], _states([added]))


@backends.command()
@click.option("--add", "is_added", is_flag=True, help="Register those that are not registered.")
@with_connection
def find(connection: Connection, is_added: bool) -> None:
    """Probe ports 8188 to 8199 of the Director's own host."""
    comfyuis = connection.director.find_backends()
    added = {
        comfyui.url: connection.director.add_backend(comfyui.url).backend_id
        for comfyui in comfyuis
        if is_added and comfyui.backend_id is None
    }
    ids = {comfyui.url: added.get(comfyui.url, comfyui.backend_id) for comfyui in comfyuis}
    lines = []
    for comfyui in comfyuis:
        url = comfyui.url
        state = f"{'added' if url in added else 'registered'} as {ids[url]}"
        lines.append(_line(comfyui, state if ids[url] else f"new: director backends add {url}"))
    connection.show(
        [{**comfyui.raw, "backend_id": ids[comfyui.url]} for comfyui in comfyuis],
        lines,
        empty="No ComfyUI answers on ports 8188 to 8199 of the Director's host.",
    )


def _line(comfyui: Found, state: str) -> str:
    version = f"ComfyUI {comfyui.comfyui_version or '?'}"
    return "  ".join(filter(None, [comfyui.url, version, _memory(comfyui), state]))


@backends.command()
@click.option("--add", "added", multiple=True, metavar="URL", help="Register this one.")
@click.option("--ignore", "ignored", multiple=True, metavar="URL", help="Stop offering it.")
@click.option("--unignore", "unignored", multiple=True, metavar="URL", help="Offer it again.")
@with_connection
def found(
    connection: Connection, added: Sequence[str], ignored: Sequence[str], unignored: Sequence[str]
) -> None:
    """List the ComfyUIs that discovery found on the Director's host and that are not registered."""
    registered = [connection.director.add_found_backend(url) for url in added]
    for url in ignored:
        connection.director.ignore_backend(url)
    for url in unignored:
        connection.director.unignore_backend(url)
    rows = connection.director.found_backends()
    raw = {
        "added": [backend.raw for backend in registered],
        "found": [comfyui.raw for comfyui in rows],
    }
    lines = _states(registered)
    for comfyui in rows:
        new = f"new: director backends found --add {comfyui.url}"
        lines.append(_line(comfyui, "ignored" if comfyui.ignored else new))
    connection.show(raw, lines)
    if not rows and not connection.as_json:
        click.echo("Discovery found no other ComfyUI.", err=True)


@backends.command()
@click.argument("name", metavar="URL|NAME")
@with_connection
def test(connection: Connection, name: str) -> int:
    """Test whether a ComfyUI answers at an address or for a backend. Registers nothing."""
    urls = [
        backend.url
        for backend in connection.director.backends()
        if name in (backend.backend_id, backend.name, *backend.tags)
    ]
    results = [connection.director.test_backend(url) for url in urls or [name]]
    lines = []
    for result in results:
        well = f"answers: ComfyUI {result.comfyui_version or '?'} {_memory(result)}".rstrip()
        lines.append(f"{result.url} {well if result.ok else f'does not answer: {result.reason}'}")
    connection.show([result.raw for result in results], lines)
    return int(Status.OK if all(result.ok for result in results) else Status.FAILED)


@backends.command()
@click.argument("name")
@click.option(
    "--lift",
    is_flag=False,
    flag_value="all",
    metavar="[N]",
    help="Lift exclusion N, or all: the backend takes these workflows again.",
)
@with_connection
def exclusions(connection: Connection, name: str, lift: str | None) -> None:
    """List the workflows that a backend cannot run, as failures of jobs of the pool showed."""
    if lift not in (None, "all") and not lift.isdecimal():
        raise usage_error("--lift takes the number of an exclusion, or nothing for all.")
    backend = selection.exactly_one(name, connection.director.backends())
    if lift is not None:
        connection.director.lift_exclusions(
            backend.backend_id, None if lift == "all" else int(lift)
        )
    rows = connection.director.exclusions(backend.backend_id)
    heads = ("N", "KIND", "COUNT", "UNTIL", "GROUP", "REASON")
    cells = [
        (
            row.exclusion_id,
            row.kind,
            row.count,
            text.local(row.until),
            row.group_id or "all",
            row.reason,
        )
        for row in rows
    ]
    empty = f"{backend.name} is excluded from no workflow."
    connection.show([row.raw for row in rows], text.columns(heads, cells), empty=empty)


_NAMES: Final = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@backends.command()
@_NAMES
@option_types.yes_option
@with_connection
def remove(connection: Connection, names: Sequence[str], *, yes: bool) -> None:
    """Remove backends. Finished groups keep their ids.

    Outputs not copied yet can no longer be loaded. On a terminal it asks first.
    """
    removals = selection.by_name(names, connection.director.backends())
    if sys.stdin.isatty() and not yes:
        question = f"Remove {pluralize(len(removals), 'backend')}?"
        confirm(
            f"Outputs not copied yet can no longer be loaded. {question}", "Nothing was removed."
        )
    for backend in removals:
        connection.director.delete_backend(backend.backend_id)
        removed = {"type": "removed", "backend_id": backend.backend_id}
        connection.show(removed, [f"{backend.name} removed"], indent=None)


_REASON: Final = click.option("--reason", help="The reason, for other users.")
_NOW: Final = click.option("--now", is_flag=True, help="Evict the running jobs: they run later.")


def _change(*options: Callable[[Any], Any]) -> Callable[[Callable[..., Backend]], click.Command]:
    """Make a function that changes one backend a command that changes each NAME; ``options`` are
    its arguments.
    """

    def decorate(change: Callable[..., Backend]) -> click.Command:
        @functools.wraps(change)
        def command(connection: Connection, *, names: Sequence[str], **values: Any) -> None:
            named = selection.by_name(names, connection.director.backends())
            with connection.results() as done:
                for backend in named:
                    changed = change(connection, backend.backend_id, **values)
                    done.append((changed.raw, "\n".join(_states([changed]))))

        decorated = _NAMES(
            functools.reduce(lambda f, option: option(f), reversed(options), command)
        )
        return backends.command()(with_connection(decorated))

    return decorate


def _states(backends: Sequence[Backend]) -> list[str]:
    lines = []
    for backend in backends:
        since = f" {since}" if (since := _since(backend)) else ""
        why = f": {backend.status_reason}" if backend.status_reason else ""
        lines.append(f"{backend.name} is {text.coloured(backend.status)}{since}{why}")
        if backend.hours:
            lines.append(f"  Hours: {backend.hours} ({backend.time_zone or 'UTC'})")
        if backend.extensions_allowed:
            lines.append("  Allowed to extend ComfyUI's editor.")
        if backend.partner_nodes_allowed:
            # The limitations include why it gets no key all the same.
            lines += [
                f"  {sentence}"
                for sentence in ("Allowed to run partner nodes.", *backend.limitations)
            ]
    return lines


@_change()
def enable(connection: Connection, backend_id: str) -> Backend:
    """Send backends jobs again."""
    return connection.director.update_backend(backend_id, enabled=True)


@_change()
def disable(connection: Connection, backend_id: str) -> Backend:
    """Disable backends: running jobs finish, queued jobs fail. See also drain, pause."""
    return connection.director.update_backend(backend_id, enabled=False)


@_change(click.option("--off", is_flag=True, help="Withdraw it: the key is sent there no more."))
def partner_nodes(connection: Connection, backend_id: str, *, off: bool) -> Backend:
    """Confirm that backends may get the Director's API key of Comfy.org, for workflows with partner
    nodes.
    """
    return connection.director.update_backend(backend_id, partner_nodes_allowed=not off)


@_change(click.option("--off", is_flag=True, help="Withdraw it: its scripts are sent no more."))
def extensions(connection: Connection, backend_id: str, *, off: bool) -> Backend:
    """Confirm that scripts of the custom nodes of backends may act as the users of ComfyUI's
    editor.
    """
    return connection.director.update_backend(backend_id, extensions_allowed=not off)


@_change(
    click.option("--set", "hours", metavar="HOURS", help="As mon-fri 19:00-07:00; sat-sun."),
    click.option("--time-zone", metavar="NAME", help="As Europe/Berlin (default: UTC)."),
    click.option("--always", is_flag=True, help="It takes jobs at any time."),
)
def hours(
    connection: Connection,
    backend_id: str,
    *,
    hours: str | None,
    time_zone: str | None,
    always: bool,
) -> Backend:
    """Show or set when backends take jobs; outside their hours they finish what they have."""
    if always:
        hours = time_zone = ""
    if hours is None and time_zone is None:
        return connection.director.backend(backend_id)
    return connection.director.update_backend(backend_id, hours=hours, time_zone=time_zone)


@_change(_NOW, _REASON)
def pause(connection: Connection, backend_id: str, **options: Any) -> Backend:
    """Send backends no jobs until they are resumed; their queued jobs stay queued."""
    return connection.director.pause_backend(backend_id, by=connection.submitter, **options)


@_change(_NOW, _REASON)
def drain(connection: Connection, backend_id: str, **options: Any) -> Backend:
    """Empty backends, then disable them: before a host is switched off."""
    return connection.director.drain_backend(backend_id, by=connection.submitter, **options)


@_change()
def resume(connection: Connection, backend_id: str) -> Backend:
    """End a pause or a drain."""
    return connection.director.resume_backend(backend_id, by=connection.submitter)


@_change(
    _REASON,
    click.option(
        "--minutes", type=click.IntRange(1), help="Duration (default: until it is released)."
    ),
)
def quarantine(connection: Connection, backend_id: str, **options: Any) -> Backend:
    """Quarantine backends that fail too often; the Director also does so automatically."""
    return connection.director.quarantine_backend(backend_id, by=connection.submitter, **options)


@_change()
def release(connection: Connection, backend_id: str) -> Backend:
    """End a quarantine early."""
    return connection.director.release_backend(backend_id, by=connection.submitter)
