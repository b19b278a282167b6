"""``director submit``: submits a workflow; watches the group and saves its files if requested."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from director.cli import batch as batches, dry_run as dry_runs, option_types, selection, text
from director.cli.assets import upload_files
from director.cli.connection import Connection, failure_of, with_connection
from director.cli.downloads import DownloadOptions, name_option, save_option
from director.cli.exit_status import CommandError, Status
from director.cli.watch import watch_to_end
from director.cli.workflow_input import editor_in, read_source, workflow_in
from director.client import Group, SkippedBackend, Unreachable
from jobgroups.domain.pool import ANY_BACKEND
from jobgroups.domain.states import PartialOutputs, RetryScope
from jobgroups.domain.text import pluralize
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy


@click.command
@click.argument("source", metavar="WORKFLOW")
@click.option(
    "-b",
    "--backend",
    "names",
    multiple=True,
    metavar="NAME",
    help="Id, name or tag; may be repeated. Alone: one job on each of these backends. With --count or "
    "--tag: they"
    " may take the jobs.",
)
@option_types.tags_option("Backends with this tag may take the jobs; may be repeated.")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="One job on each backend that can accept jobs now; with --count as without --all.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 10_000),
    help="Number of jobs; each goes to the backend that is free first (default: 1).",
)
@option_types.set_option("Set an input in every job: steps=30, 3.cfg=7, text=@prompt.txt.")
@batches.options
@click.option(
    "--seeds",
    "seed_strategy",
    type=click.Choice([strategy.value for strategy in SeedStrategy]),
    help="How the other seeds follow from the base seed (default: random; with --sweep one seed "
    "for all jobs).",
)
@click.option(
    "--base-seed", type=click.IntRange(0, MAX_SEED), help="Seed of the first job (default: random)."
)
@click.option(
    "--title", "name", metavar="TEXT", help="Name of the group (default: its scene, or its prompt)."
)
@click.option(
    "--shared",
    "visibility",
    flag_value="shared",
    help="Let every account see it, where people see their own work alone.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, 100),
    help="Of waiting groups, a higher one is first (default: 50).",
)
@click.option(
    "--max-running", type=click.IntRange(1), help="Jobs that may be at backends at once (any)."
)
@click.option(
    "--start-after",
    type=option_types.later,
    metavar="WHEN",
    help="Start later: 18:30, 2026-02-01T08:00, or in 30m, 2h.",
)
@option_types.metadata_option("Metadata of the group; a filter of director list.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.IntRange(30, 3600),
    help="Seconds that a job may run (default: 300).",
)
@click.option(
    "--stall-timeout",
    "stall_seconds",
    type=click.IntRange(30, 86_400),
    help="Seconds without an event after which a job ends; replaces the default of --timeout: it "
    "may run for days.",
)
@click.option(
    "--retention-days",
    type=click.IntRange(1, 36_500),
    help="Days after the end of the group until it is deleted, unless a job has a star (default: "
    "the Director's setting).",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 10),
    help="Maximum number of attempts per job (default: the Director's setting).",
)
@click.option(
    "--elsewhere",
    "retry_elsewhere",
    type=click.Choice([scope.value for scope in RetryScope]),
    callback=option_types.parse_with(lambda where: False if where == "never" else where),
    help="Backends of a retry: only the job's own, those of the group, or any.",
)
@click.option(
    "--retry-on",
    multiple=True,
    metavar="CLASS",
    help="Retry only after these failures: out_of_memory …",
)
@click.option(
    "--partial-outputs",
    type=click.Choice([policy.value for policy in PartialOutputs]),
    help="If ComfyUI refuses some outputs: accept the others with a warning (default), or fail.",
)
@click.option(
    "--stop-when",
    multiple=True,
    metavar="STATUS=N",
    callback=option_types.parse_with(option_types.stop_when),
    help="After so many jobs (completed=4, failed=10) cancel the other jobs; may be repeated.",
)
@click.option(
    "--webhook",
    metavar="URL",
    callback=option_types.parse_with(
        lambda url: None if url is None else {"url": option_types.require_text(url)}
    ),
    help="Have the ends of the jobs and of the group posted to URL.",
)
@option_types.requires_option
@click.option(
    "--upload",
    is_flag=True,
    help="Upload the local files that the inputs image, mask, audio, video and file name.",
)
@click.option(
    "--key",
    type=option_types.key,
    metavar="KEY",
    help="Idempotency key: the same submission with this key makes one group in 24 hours.",
)
@click.option(
    "--watch",
    "is_watched",
    is_flag=True,
    help="Watch the group to its end; the exit status reports its result.",
)
@save_option
@name_option()
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show jobs, seeds, inputs and the time; submit and upload nothing.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only the group's id and warnings.")
@with_connection
def submit(
    connection: Connection,
    *,
    source: str,
    names: Sequence[str],
    tags: Sequence[str],
    every: bool,
    count: int | None,
    sweeps: Sequence[str],
    csv_file: str | None,
    globs: Sequence[str],
    is_zip: bool,
    key: str | None,
    is_watched: bool,
    folder: Path | None,
    file_name: str,
    upload: bool,
    dry_run: bool,
    quiet: bool,
    **fields: Any,
) -> int:
    """Submit WORKFLOW: a file that ComfyUI's editor saved or exported, a PNG that ComfyUI made, or
    - for standard input.

    Each job is the workflow with its own seed. It goes to the backend that is free first, unless -b
    or --all names a backend for each job. When this command returns, the Director has stored the
    group: it runs independently of this terminal.
    """
    if every and (names or tags):
        raise click.UsageError("Use --backend or --all, not both; likewise --tag.")
    has_batch = bool(sweeps or globs or csv_file)
    if has_batch and count is not None:
        raise click.UsageError(
            "--sweep, --csv and --inputs make the number of jobs: use them without --count."
        )
    in_pool = count is not None or has_batch or bool(tags) or not (names or every)
    content = read_source(source)
    # As it was drawn, for the pictures. The Director converts it again, with the warnings; with
    # --upload it would lack the files.
    editor = None if dry_run or upload else editor_in(content)
    graph = workflow_in(content, source, connection.director, warns=editor is None)
    template = dry_runs.with_parameters(graph, fields["parameters"])
    batch = batches.read(
        graph, template, sweeps=sweeps, csv_file=csv_file, globs=globs, is_zip=is_zip, upload=upload
    )
    # A submission to the pool of all backends is sent without reading them.
    known = () if in_pool and not (names or tags) else connection.director.backends()
    if in_pool:
        backend_ids = selection.for_pool(names, tags, known=known)
        count = count or 1
    else:
        backend_ids = selection.for_children(names, known=known)
    fields |= batch.fields if batch else {"count": count}
    if dry_run:
        plan = connection.director.plan(graph, backend_ids, **_options(fields))
        changed = list(dry_runs.changes(graph, template))
        connection.show(
            plan.raw | {"changes": changed}, dry_runs.lines(plan, changed, connection.name_of)
        )
        _warn(plan.warnings)
        _warn_of_backends(
            connection,
            (SkippedBackend(**skipped) for skipped in plan.skipped_backends),
            in_pool=in_pool,
        )
        return int(Status.OK)
    in_names = {*fields["metadata"], *(batch.names if batch else ())}
    download_options = DownloadOptions(folder, file_name, known=in_names)
    if upload:
        given = [graph, fields["parameters"]]
        graph, fields["parameters"] = upload_files(connection.director, given, by_name=True)
    if batch:
        fields |= upload_files(connection.director, batch.fields)
    group = _send(connection, editor or graph, backend_ids, fields, key=key)
    _announce(connection, group, backend_ids, in_pool=in_pool, quiet=quiet)
    if not is_watched and folder is None:
        return int(Status.OK)
    return watch_to_end(connection, group.job_group_id, download_options, quiet=quiet)


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, ())}


def _send(
    connection: Connection,
    graph: dict[str, Any],
    backend_ids: Sequence[str],
    fields: Mapping[str, Any],
    *,
    key: str | None,
) -> Group:
    """Submit with a key, so that a repetition after a lost answer makes no second group."""
    key = key or str(uuid.uuid4())
    options = _options(fields) | {"submitter": connection.submitter, "idempotency_key": key}
    again = f"Repeat the command with --key {key}: it makes one group, also if this one arrived."
    try:
        return connection.director.submit(graph, backend_ids, **options)
    except Unreachable as error:
        failure = failure_of(error, connection)
        failure.hint = f"{failure.hint}\n{again}"
        failure.details["idempotency_key"] = key
        raise failure from error
    except KeyboardInterrupt:
        raise CommandError(
            "Interrupted before the answer.", Status.INTERRUPTED, hint=again
        ) from None


def _announce(
    connection: Connection, group: Group, backend_ids: Sequence[str], *, in_pool: bool, quiet: bool
) -> None:
    if connection.as_json:
        connection.show({"type": "submitted", **group.raw}, (), indent=None)
        return
    _warn(group.warnings)
    # Also with --quiet, if the group may have fewer jobs than requested.
    if not (quiet and in_pool):
        _warn_of_backends(connection, group.skipped_backends, in_pool=in_pool)
    if quiet:
        click.echo(group.job_group_id)
        return
    if group.replayed:
        click.echo("This key was used before: this is its group, no new one.", err=True)
    number = pluralize(len(group.child_jobs), "job")
    ids = (
        backend_ids
        if in_pool
        else list(dict.fromkeys(child.backend_id or "" for child in group.child_jobs))
    )
    if backend_ids == [ANY_BACKEND]:
        where = "any free backend"
    else:
        where = "any free backend of " if in_pool else ""
        where += ", ".join(map(connection.name_of, ids[:6]))
        where += f" and {len(ids) - 6} more" if len(ids) > 6 else ""
    click.echo(
        f"{group.job_group_id}: {number} on {where}. See: director watch {group.job_group_id}"
    )


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(text.plain_line(f"Warning: {warning}"), err=True)


def _warn_of_backends(
    connection: Connection, left_out: Iterable[SkippedBackend], *, in_pool: bool
) -> None:
    """Print the backends without jobs; of the pool, the candidates that can take none now."""
    head = "Not ready" if in_pool else "Left out"
    for backend in dict.fromkeys(left_out):
        name = connection.name_of(backend.backend_id)
        click.echo(text.plain_line(f"{head}: {name}: {backend.reason}"), err=True)
