"""Commands that decide when jobs may start: ``pause``, ``resume``, ``limit``, ``submitters``."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import click

from director.cli import option_types, text
from director.cli.connection import Connection, with_connection
from director.client import Group, Submitter, SubmitterFields


def pause_options(command: Callable[..., Any]) -> Callable[..., Any]:
    reason = click.option("--reason", metavar="TEXT", help="Shown with what waits.")
    until = click.option(
        "--until",
        type=option_types.later,
        metavar="WHEN",
        help="Resume by itself then: 18:30, 2026-02-01T08:00, or in 30m, 2h.",
    )
    return reason(until(command))


@click.command
@option_types.group_ids_argument
@pause_options
@with_connection
def pause(
    connection: Connection, group_ids: Sequence[str], reason: str | None, until: dt.datetime | None
) -> None:
    """Pause groups: what waits is not sent, what runs ends. What waits at a ComfyUI is taken back."""
    with connection.results() as done:
        for name in group_ids:
            group = connection.director.pause(
                name, reason=reason, until=until, by=connection.submitter
            )
            done.append((group.raw, f"{group.job_group_id} is {text.pause(group.paused)}."))


@click.command
@option_types.group_ids_argument
@with_connection
def resume(connection: Connection, group_ids: Sequence[str]) -> None:
    """Resume paused groups."""
    with connection.results() as done:
        for name in group_ids:
            group = connection.director.resume(name, by=connection.submitter)
            done.append((group.raw, f"{group.job_group_id} is {text.pause(group.paused)}."))


@click.command
@option_types.group_id_argument
@click.option(
    "--max-running",
    type=option_types.any_number,
    metavar="N|any",
    help="Prompts that it has at backends at most.",
)
@click.option(
    "--start-after",
    type=option_types.later,
    metavar="WHEN",
    help="Nothing of it is sent before: now, 18:30, 2026-02-01T08:00, or in 30m, 2h.",
)
@with_connection
def limit(
    connection: Connection, group_id: str, max_running: int | None, start_after: dt.datetime | None
) -> None:
    """Set how many jobs of the group ID may be at backends at once, and when it may start."""
    director = connection.director
    changed: list[Group] = []
    if max_running is not None:
        changed.append(director.limit(group_id, max_running or None))
    if start_after is not None:
        changed.append(director.delay(group_id, start_after))
    if not changed:
        raise click.UsageError("Give --max-running or --start-after.")
    group = changed[-1]
    start = f", starts after {text.local(group.start_after)}" if group.start_after else ""
    number = "any number" if group.max_running is None else group.max_running
    connection.show(group.raw, [f"{group_id}: {number} at once{start}."])


@click.command
@click.argument("name", metavar="NAME")
@click.option("--weight", type=click.FloatRange(0.01, 100), help="Its part of a busy farm (1).")
@click.option(
    "--max-running",
    type=option_types.any_number,
    metavar="N|any",
    help="Prompts that its groups have at backends at most.",
)
@click.option(
    "--max-queued",
    type=option_types.any_number,
    metavar="N|any",
    help="Queued jobs of its groups at most: a submission beyond is refused.",
)
@click.option("--pause/--resume", "paused", default=None, help="Send nothing of it, or end that.")
@pause_options
@with_connection
def submitters(
    connection: Connection,
    *,
    name: str,
    paused: bool | None,
    reason: str | None,
    until: dt.datetime | None,
    **given: Any,
) -> None:
    """Show the submitter NAME, or set its weight and limits, pause or resume it."""
    fields = SubmitterFields()
    for field, value in given.items():
        if value is not None:
            fields[field] = value or None  # type: ignore[literal-required]
    if paused is not None:
        fields["paused"] = paused
    if reason or until:
        if not paused:
            raise click.UsageError("--reason and --until belong to --pause.")
        until_text = None if until is None else until.isoformat()
        details = {"reason": reason, "until": until_text}
        fields["paused"] = {key: value for key, value in details.items() if value}
    director = connection.director
    submitter = director.set_submitter(name, **fields) if fields else director.submitter(name)
    connection.show(submitter.raw, [_line(submitter)])


def _line(submitter: Submitter) -> str:
    facts = [f"weight {submitter.weight:g}", f"{submitter.used_seconds:.0f} s used lately"]
    if submitter.max_running is not None:
        facts.append(f"at most {submitter.max_running} at once")
    if submitter.max_queued is not None:
        facts.append(f"at most {submitter.max_queued} queued")
    if submitter.paused is not None:
        facts.append(text.pause(submitter.paused, "submitter"))
    return f"{text.plain_line(submitter.name)}: {', '.join(facts)}."
