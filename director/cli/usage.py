"""``director usage``: GPU time, jobs, failures and retries."""

import datetime as dt
from collections.abc import Callable
from typing import Final

import click

from director.cli import text
from director.cli.connection import Connection, with_connection

_DAY: Final = click.DateTime(["%Y-%m-%d"])


@click.command
@click.option(
    "--by",
    default="day",
    show_default=True,
    help="One to three of day, submitter, backend, metadata.KEY.",
)
@click.option(
    "--from", "first", type=_DAY, help="First day in UTC; default: 29 days before the last one."
)
@click.option("--to", "last", type=_DAY, help="Last day in UTC; default: today.")
@with_connection
def usage(
    connection: Connection, by: str, first: dt.datetime | None, last: dt.datetime | None
) -> None:
    """Show GPU hours, jobs, failures and retries by day, submitter, backend or metadata."""
    report = connection.director.usage(
        by.split(","), first_day=first and first.date(), last_day=last and last.date()
    )
    heads = [*(name.upper() for name in report.by), "GPU HOURS", "JOBS", "FAILURES", "RETRIES"]
    rows = [
        (
            *(_value(name, row.dimensions[name], connection.name_of) for name in report.by),
            f"{row.gpu_seconds / 3600:.2f}",
            row.jobs,
            row.failures,
            row.retries,
        )
        for row in report.results
    ]
    more = ["There are more rows; name fewer dimensions or days."] if report.next else []
    connection.show(
        report.raw, [*text.columns(heads, rows), *more] or ["Nothing was rendered in these days."]
    )


def _value(dimension: str, value: str | None, name_of: Callable[[str], str]) -> str:
    """Return a value as a cell."""
    return name_of(value) if value and dimension == "backend" else value or "-"
