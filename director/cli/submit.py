"""``director submit``: a workflow, on which backends, with which seeds; watched and saved if wanted."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import click

from director.cli import dry_run as planning
from director.cli import environment, option_types, selection, text
from director.cli.connection import Connection, failure_of, with_connection
from director.cli.downloads import DEFAULT_NAME, DownloadOptions
from director.cli.exit_status import CommandError, Status
from director.cli.selection import SelectedBackends
from director.cli.watch import watch_to_end
from director.cli.workflow_input import read_source, workflow_in
from director.client import Director, Group, Unreachable
from director.client.requests import SubmitOptions
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy

_EXAMPLES: Final = """\
\b
Examples:
  director submit workflow.json -b gpu-1 -b gpu-2 --watch
  director submit workflow.json --all --count 12 --save pictures
  director submit picture.png -b 24gb --set 3.cfg=7 --set text=@prompt.txt
  director submit workflow.json --all --seeds golden_ratio --base-seed 42 --dry-run
  cat workflow.json | director submit - --all --meta scene=shot_001 --quiet
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source", metavar="WORKFLOW")
@click.option(
    "-b",
    "--backend",
    "names",
    multiple=True,
    metavar="NAME",
    help="Id or tag; may be repeated (else --all).",
)
@click.option(
    "--all", "every", is_flag=True, help="Every backend that can take work now (the default)."
)
@click.option(
    "--count",
    type=click.IntRange(1, 10_000),
    help="So many children, dealt out to the backends in turn (else one each).",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="INPUT=VALUE",
    help="Set an input in every child: steps=30, 3.cfg=7, text=@prompt.txt.",
)
@click.option(
    "--seeds",
    "strategy",
    type=click.Choice([one.value for one in SeedStrategy]),
    default=SeedStrategy.RANDOM.value,
    show_default=True,
    help="How the seeds after the first follow from it.",
)
@click.option(
    "--base-seed", type=click.IntRange(0, MAX_SEED), help="Seed of the first child (else drawn)."
)
@click.option(
    "--meta",
    "notes",
    multiple=True,
    metavar="KEY=VALUE",
    help="A note that comes back, and is searched for.",
)
@click.option(
    "--timeout",
    type=click.IntRange(30, 3600),
    help="Seconds that a child may execute (else 300).",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 10),
    help="Tries that a child has (else the Director's setting).",
)
@click.option(
    "--elsewhere",
    type=click.Choice(["never", "group", "any"]),
    help="Where a failed child is tried again: here only, on the group's backends, on any.",
)
@click.option(
    "--retry-on", multiple=True, metavar="CLASS", help="Only after these failures: out_of_memory …"
)
@click.option(
    "--partial-outputs",
    type=click.Choice(["accept", "fail"]),
    help="If ComfyUI refuses some outputs: accept the others with a warning (default), or fail.",
)
@click.option(
    "--requires",
    multiple=True,
    metavar="CAPABILITY",
    help="A tag, gpu:… or comfyui:… that a backend must have.",
)
@click.option(
    "--key",
    type=option_types.key,
    metavar="KEY",
    help="Idempotency key: the same submission under it is made once in 24 hours.",
)
@click.option(
    "--watch",
    "is_watched",
    is_flag=True,
    help="Show it to its end; the exit status tells what came of it.",
)
@click.option(
    "--save",
    "folder",
    type=option_types.folder,
    metavar="DIR",
    help="Watch, and save each file there as it comes.",
)
@click.option(
    "--name",
    default=DEFAULT_NAME,
    show_default=True,
    help="Names of saved files; {job} may be used too.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show children, seeds and what is changed; send nothing."
)
@click.option("-q", "--quiet", is_flag=True, help="Print the group's id alone; warnings stay.")
@with_connection
def submit(
    connection: Connection,
    *,
    source: str,
    names: Sequence[str],
    every: bool,
    count: int | None,
    pairs: Sequence[str],
    notes: Sequence[str],
    strategy: str,
    base_seed: int | None,
    is_watched: bool,
    folder: Path | None,
    name: str,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Render WORKFLOW: a file in ComfyUI's API format, a PNG that ComfyUI made, or - for standard input.

    Each child is the workflow with a seed of its own, on one backend. The group is on the Director's
    disk when this returns: it goes on whatever happens to this terminal.
    """
    if names and every:
        raise click.UsageError("Say --backend or --all, not both.")
    parameters = option_types.parameters(pairs)
    content = read_source(source)
    with connection.director() as director:
        graph = workflow_in(content, source, director)
        known = director.backends()
        selected = selection.for_children(names, every=every, count=count, known=known)
        if dry_run:
            selected = selection.without_ineligible(selected, known, options["requires"])
        planned = planning.plan(
            graph, selected, parameters=parameters, strategy=strategy, base_seed=base_seed
        )
        if dry_run:
            planning.show(connection, planned)
            _warn(planned.warnings, selected)
            return int(Status.OK)
        download_options = DownloadOptions(folder, name)
        said = {
            "parameters": parameters,
            "metadata": option_types.metadata(notes),
            "seed_strategy": strategy,
            "base_seed": base_seed,
            **_policy(options),
        }
        group = _sent(
            connection,
            director,
            graph=graph,
            backend_ids=selected.backend_ids,
            said=said,
            key=options["key"],
        )
        _announce(connection, group, selected, quiet=quiet)
        if not is_watched and folder is None:
            return int(Status.OK)
        return watch_to_end(connection, director, group.job_group_id, download_options, quiet=quiet)


def _policy(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said of tries, time and capabilities, as the API has it."""
    elsewhere = options["elsewhere"]
    return {
        "timeout_seconds": options["timeout"],
        "max_attempts": options["max_attempts"],
        "retry_elsewhere": False if elsewhere == "never" else elsewhere,
        "retry_on": list(options["retry_on"]) or None,
        "partial_outputs": options["partial_outputs"],
        "required_capabilities": list(options["requires"]) or None,
    }


def _sent(
    connection: Connection,
    director: Director,
    *,
    graph: dict[str, Any],
    backend_ids: Sequence[str],
    said: Mapping[str, Any],
    key: str | None,
) -> Group:
    """Submit under a key, so that whoever tries again after a lost answer doubles nothing.

    Raises:
        CommandError: with the key, where it is not known whether the submission arrived.
    """
    key = key or str(uuid.uuid4())
    options = {name: value for name, value in said.items() if value is not None}
    options |= {"submitter": environment.submitter(), "idempotency_key": key}
    again = f"The same command with --key {key} makes it once, whether it arrived or not."
    try:
        return director.submit(graph, backend_ids, **cast(SubmitOptions, options))
    except Unreachable as error:
        failure = failure_of(error, connection)
        failure.hint = f"{failure.hint}\n{again}"
        failure.details["idempotency_key"] = key
        raise failure from error
    except KeyboardInterrupt:
        raise CommandError(
            "Interrupted before the answer came.", Status.INTERRUPTED, hint=again
        ) from None


def _announce(
    connection: Connection, group: Group, selected: SelectedBackends, *, quiet: bool
) -> None:
    skipped = [(one.backend_id, one.reason) for one in group.skipped_backends]
    left_out = [*selected.left_out, *dict.fromkeys(skipped)]
    if connection.as_json:
        shown = [{"backend_id": name, "reason": reason} for name, reason in left_out]
        connection.show_line({"type": "submitted", **group.raw, "skipped_backends": shown})
        return
    # Also where a script wants the id alone: it may have connection for what it did not get.
    _warn(group.warnings, SelectedBackends([], left_out))
    if quiet:
        click.echo(group.job_group_id)
        return
    if group.replayed:
        click.echo("This key was used before: the group that it made then, nothing new.", err=True)
    ids = list(dict.fromkeys(child.backend_id for child in group.child_jobs))
    where = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    number = text.plural(len(group.child_jobs), "child", "children")
    click.echo(
        f"{group.job_group_id}: {number} on {where}. See: director watch {group.job_group_id}"
    )


def _warn(warnings: Sequence[str], selected: SelectedBackends) -> None:
    for warning in warnings:
        click.echo(text.plain_line(f"Warning: {warning}"), err=True)
    for backend_id, reason in selected.left_out:
        click.echo(text.plain_line(f"Left out: {backend_id}: {reason}"), err=True)
