"""``director submit``: submits a workflow; watches the group and saves its files if requested."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

import click

from director.cli import dry_run as dry_runs
from director.cli import environment, option_types, selection, text
from director.cli.connection import Connection, failure_of, with_connection
from director.cli.downloads import DownloadOptions, name_option, save_option
from director.cli.exit_status import CommandError, Status
from director.cli.selection import SelectedBackends
from director.cli.watch import watch_to_end
from director.cli.workflow_input import read_source, workflow_in
from director.client import Director, Group, SkippedBackend, Unreachable
from director.client.requests import SubmitOptions
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy

_EXAMPLES: Final = """\
\b
Examples:
  director submit workflow.json -b gpu-1 -b gpu-2 --watch
  director submit workflow.json --all --count 12 --save images
  director submit image.png -b 24gb --set 3.cfg=7 --set text=@prompt.txt
  director submit workflow.json --all --seeds golden_ratio --base-seed 42 --dry-run
  cat workflow.json | director submit - --all --meta scene=shot_001 --quiet
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source", metavar="WORKFLOW")
@click.option(
    "-b", "--backend", "names", multiple=True, metavar="NAME", help="Id or tag; may be repeated (default: --all)."
)
@click.option("--all", "every", is_flag=True, help="Every backend that can accept jobs now (default).")
@click.option(
    "--count",
    type=click.IntRange(1, 10_000),
    help="Number of jobs, distributed to the backends in turn (default: one each).",
)
@click.option(
    "--set",
    "parameters",
    multiple=True,
    metavar="INPUT=VALUE",
    callback=lambda _context, _option, pairs: option_types.parameters(pairs),
    help="Set an input in every job: steps=30, 3.cfg=7, text=@prompt.txt.",
)
@click.option(
    "--seeds",
    "seed_strategy",
    type=click.Choice([strategy.value for strategy in SeedStrategy]),
    default=SeedStrategy.RANDOM.value,
    show_default=True,
    help="How the other seeds follow from the base seed.",
)
@click.option("--base-seed", type=click.IntRange(0, MAX_SEED), help="Seed of the first job (default: random).")
@option_types.metadata_option("Metadata of the group; a filter of director list.")
@click.option(
    "--timeout", "timeout_seconds", type=click.IntRange(30, 3600), help="Seconds that a job may run (default: 300)."
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 10),
    help="Maximum number of attempts per job (default: the Director's setting).",
)
@click.option(
    "--elsewhere",
    "retry_elsewhere",
    type=click.Choice(["never", "group", "any"]),
    callback=lambda _context, _option, where: False if where == "never" else where,
    help="Backends of a retry: only the job's own, those of the group, or any.",
)
@click.option("--retry-on", multiple=True, metavar="CLASS", help="Retry only after these failures: out_of_memory …")
@click.option(
    "--partial-outputs",
    type=click.Choice(["accept", "fail"]),
    help="If ComfyUI refuses some outputs: accept the others with a warning (default), or fail.",
)
@click.option(
    "--requires",
    "required_capabilities",
    multiple=True,
    metavar="CAPABILITY",
    help="A tag, gpu:… or comfyui:… that a backend must have.",
)
@click.option(
    "--key",
    type=option_types.key,
    metavar="KEY",
    help="Idempotency key: the same submission with this key makes one group in 24 hours.",
)
@click.option(
    "--watch", "is_watched", is_flag=True, help="Watch the group to its end; the exit status reports its result."
)
@save_option
@name_option
@click.option("--dry-run", is_flag=True, help="Show jobs, seeds and changed inputs; send nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the group's id and warnings.")
@with_connection
def submit(
    connection: Connection,
    *,
    source: str,
    names: Sequence[str],
    every: bool,
    count: int | None,
    key: str | None,
    is_watched: bool,
    folder: Path | None,
    name: str,
    dry_run: bool,
    quiet: bool,
    **fields: Any,
) -> int:
    """Submit WORKFLOW: a file in ComfyUI's API format, a PNG that ComfyUI made, or - for standard input.

    Each job is the workflow with its own seed, on one backend. When this command returns, the Director has
    stored the group: it runs independently of this terminal.
    """
    if names and every:
        raise click.UsageError("Use --backend or --all, not both.")
    content = read_source(source)
    with connection.director() as director:
        graph = workflow_in(content, source, director)
        known = director.backends()
        selected = selection.for_children(names, every=every, count=count, known=known)
        if dry_run:
            selected = selection.without_ineligible(selected, known, fields["required_capabilities"])
        plan = dry_runs.plan(
            graph,
            selected,
            parameters=fields["parameters"],
            strategy=fields["seed_strategy"],
            base_seed=fields["base_seed"],
        )
        if dry_run:
            dry_runs.show(connection, plan)
            _warn(plan.warnings, selected.left_out)
            return int(Status.OK)
        download_options = DownloadOptions(folder, name)
        group = _send(connection, director, graph, selected.backend_ids, fields, key=key)
        _announce(connection, group, selected, quiet=quiet)
        if not is_watched and folder is None:
            return int(Status.OK)
        return watch_to_end(connection, director, group.job_group_id, download_options, quiet=quiet)


def _send(
    connection: Connection,
    director: Director,
    graph: dict[str, Any],
    backend_ids: Sequence[str],
    fields: Mapping[str, Any],
    *,
    key: str | None,
) -> Group:
    """Submit with a key, so that a repetition after a lost answer makes no second group.

    Raises:
        CommandError: With the key, if the submission may or may not have arrived.
    """
    key = key or str(uuid.uuid4())
    options = {name: value for name, value in fields.items() if value not in (None, ())}
    options |= {"submitter": environment.submitter(), "idempotency_key": key}
    again = f"Repeat the command with --key {key}: it makes one group, also if this one arrived."
    try:
        return director.submit(graph, backend_ids, **cast(SubmitOptions, options))
    except Unreachable as error:
        failure = failure_of(error, connection)
        failure.hint = f"{failure.hint}\n{again}"
        failure.details["idempotency_key"] = key
        raise failure from error
    except KeyboardInterrupt:
        raise CommandError("Interrupted before the answer.", Status.INTERRUPTED, hint=again) from None


def _announce(connection: Connection, group: Group, selected: SelectedBackends, *, quiet: bool) -> None:
    left_out = [*selected.left_out, *dict.fromkeys(group.skipped_backends)]
    if connection.as_json:
        shown = [asdict(backend) for backend in left_out]
        connection.show_line({"type": "submitted", **group.raw, "skipped_backends": shown})
        return
    # Also with --quiet: the group may have fewer jobs than requested.
    _warn(group.warnings, left_out)
    if quiet:
        click.echo(group.job_group_id)
        return
    if group.replayed:
        click.echo("This key was used before: this is its group, no new one.", err=True)
    ids = list(dict.fromkeys(child.backend_id for child in group.child_jobs))
    where = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    number = text.plural(len(group.child_jobs), "job")
    click.echo(f"{group.job_group_id}: {number} on {where}. See: director watch {group.job_group_id}")


def _warn(warnings: Sequence[str], left_out: Sequence[SkippedBackend]) -> None:
    for warning in warnings:
        click.echo(text.plain_line(f"Warning: {warning}"), err=True)
    for backend in left_out:
        click.echo(text.plain_line(f"Left out: {backend.backend_id}: {backend.reason}"), err=True)
