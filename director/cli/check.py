"""``director check``: which backends can execute a workflow, and why the others cannot."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from director.cli import option_types, selection, text
from director.cli.connection import Connection, with_connection
from director.cli.dry_run import with_parameters
from director.cli.exit_status import Status
from director.cli.workflow_input import read_source, workflow_in
from director.client import BackendCheck
from jobgroups.domain.text import pluralize


@click.command
@click.argument("source", metavar="WORKFLOW")
@click.option("-b", "--backend", "names", multiple=True, metavar="NAME", help="Id, name or tag.")
@option_types.tags_option("Backends with this tag.")
@option_types.set_option("Set an input: steps=30, 3.cfg=7, text=@prompt.txt.")
@option_types.requires_option
@with_connection
def check(
    connection: Connection, source: str, names: Sequence[str], tags: Sequence[str], **options: Any
) -> int:
    """Show which backends can execute WORKFLOW, and every reason why the others cannot.

    WORKFLOW is as of director submit. Without -b and --tag every backend is checked. Nothing is
    submitted.
    """
    content = read_source(source)
    graph = workflow_in(content, source, connection.director)
    with_parameters(graph, options["parameters"])
    known = connection.director.backends()
    candidates = selection.for_pool(names, tags, known=known)
    verdict = connection.director.check(graph, candidates, **options)
    shown = {backend.backend_id: backend.name for backend in known}
    connection.show(verdict.raw, check_lines(verdict.backends, shown))
    return int(Status.OK if verdict.can_run else Status.FAILED)


def check_lines(backends: Sequence[BackendCheck], names: Mapping[str, str]) -> list[str]:
    """Return the answer as a table. ``names`` are those of the backends, by their ids."""
    if not backends:
        return ["There is no enabled backend."]
    rows = [row for backend in backends for row in _rows(backend, names)]
    able = sum(backend.can_run for backend in backends)
    heads = ("BACKEND", "CAN RUN IT", "NODE", "REASON")
    return [*text.columns(heads, rows), f"{able} of {pluralize(len(backends), 'backend')}."]


def _rows(backend: BackendCheck, names: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Give a row for each reason; the first one has the backend's name."""
    name = names.get(backend.backend_id) or backend.backend_id
    answer = "yes" if backend.can_run else "no"
    if backend.can_run and backend.reasons:
        answer = "in part"
    elif backend.can_run and not backend.known:
        answer = "not known"
    if not backend.reasons:
        yield name, answer, "", ""
    for number, reason in enumerate(backend.reasons):
        first = ("", "") if number else (name, answer)
        node = (
            "" if reason.node_id is None else f"{reason.node_id} {reason.class_type or ''}".rstrip()
        )
        yield (*first, node, reason.message)
        if reason.nearest:
            # On a line of its own: a terminal cuts long messages.
            yield "", "", "", f"nearest: {', '.join(reason.nearest)}"
