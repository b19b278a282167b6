"""``director failures``: recent failures by cause, backend and workflow."""

from collections.abc import Callable, Sequence
from typing import Final

import click

from director.cli import text
from director.cli.connection import Connection, with_connection
from director.client import FailureRow, Failures
from jobgroups.domain.text import pluralize

_WITHIN: Final = {"1h": "hour", "1d": "day", "7d": "seven days"}


@click.command
@click.option(
    "--window",
    type=click.Choice(list(_WITHIN)),
    default="1d",
    show_default=True,
    help="Period before now.",
)
@with_connection
def failures(connection: Connection, window: str) -> None:
    """Show recent failures by cause, backend and workflow, the most frequent first."""
    report = connection.director.failures(window)
    connection.show(report.raw, failure_lines(report, connection.name_of))


def failure_lines(report: Failures, name_of: Callable[[str], str] = str) -> Sequence[str]:
    within = f"the last {_WITHIN[report.window]}"
    if not report.results and not report.recovered:
        return [f"Nothing failed in {within}."]
    jobs = pluralize(report.failed_jobs, "job")
    lines = [
        f"{jobs} failed in {within} and {'is' if report.failed_jobs == 1 else 'are'} failed now."
    ]
    if report.only_newest is not None:
        lines.append(f"There were more failures: only the newest {report.only_newest} are counted.")
    lines += _table(report.results, name_of)
    if report.recovered:
        lines += ["Completed with a later attempt:", *_table(report.recovered, name_of)]
    if report.left_out:
        lines.append(f"{pluralize(report.left_out, 'more row')}.")
    return lines


def _table(rows: Sequence[FailureRow], name_of: Callable[[str], str]) -> list[str]:
    heads = (
        "CLASS",
        "BACKEND",
        "FAILURES",
        "FAILED JOBS",
        "RETRYING",
        "LAST",
        "WORKFLOW",
        "NEWEST",
    )
    cells = [
        (
            row.failure_class,
            name_of(row.backend_id or "-"),
            row.failures,
            row.failed_jobs,
            row.retrying,
            text.local(row.last_at),
            row.workflow_name,
            # The attempt of a recall at an unreachable backend has no message.
            row.example
            and ": ".join(filter(None, (row.example.job_group_id, row.example.message))),
        )
        for row in rows
    ]
    return text.columns(heads, cells)
