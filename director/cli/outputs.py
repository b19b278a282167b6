"""The command ``outputs``: the images and videos of all groups."""

from itertools import islice
from pathlib import Path
from typing import Any

import click

from director.cli import option_types, selection, text
from director.cli.connection import Connection, with_connection
from director.cli.display import make_display
from director.cli.downloads import Downloader, DownloadOptions, name_option
from director.cli.exit_status import CommandError, Status
from jobgroups.domain.file_names import FIXED


@click.command
@click.option(
    "--since",
    "completed_after",
    type=option_types.moment,
    metavar="WHEN",
    help="Completed since: 30m, 1h, 7d, 2026-02-01.",
)
@click.option(
    "--before",
    "completed_before",
    type=option_types.moment,
    metavar="WHEN",
    help="Completed before.",
)
@click.option(
    "--text",
    metavar="WORDS",
    help="Of groups with these words in name, prompt, metadata, id or submitter; or the seed of a job.",
)
@click.option("--model", metavar="NAME", help="Of groups with exactly this model.")
@click.option("--kind", type=click.Choice(["image", "video"]), help="Of this kind.")
@click.option("--size", metavar="WIDTHxHEIGHT", help="Of this size in pixels.")
@click.option(
    "--starred",
    is_flag=True,
    callback=option_types.parse_with(lambda on: "yes" if on else None),
    help="Of jobs with a star.",
)
@click.option("--group", type=option_types.identifier, metavar="ID", help="Of this group.")
@click.option("--submitter", metavar="NAME", help="Of groups with exactly this submitter.")
@click.option("-b", "--backend", metavar="NAME", help="Made by this backend: its name or id.")
@option_types.limit_option(50, "outputs")
@click.option(
    "--save",
    "folder",
    type=option_types.folder,
    is_flag=False,
    flag_value=".",
    metavar="[DIR]",
    help="Save the files, instead of listing them (default: in the current folder).",
)
@name_option("{number}, {job} and {group}.")
@with_connection
def outputs(
    connection: Connection, *, limit: int, folder: Path | None, file_name: str, **filters: Any
) -> int:
    """List the images and videos of all groups, newest first, or save them."""
    options = DownloadOptions(folder, file_name, FIXED)
    filters["backend"] = selection.filter_id(connection, filters["backend"])
    found = connection.director.outputs(**filters, limit=min(limit, 200))
    listed = list(islice(found, limit))
    if folder is not None and listed:
        with (
            make_display(as_json=connection.as_json) as display,
            Downloader(connection.director, options, display.on_saved) as downloader,
        ):
            for output in listed:
                downloader.download_listed(output)
            missing = downloader.finish()
        if missing:
            raise CommandError("\n".join(file.sentence for file in missing), Status.FAILED)
        return int(Status.OK)
    heads = ("GROUP", "JOB", "FILE", "SIZE", "SEED", "BACKEND", "COMPLETED", "TITLE")
    rows = [
        (
            output.job_group_id,
            output.job_id,
            output.filename,
            f"{output.width}x{output.height}" if output.width else None,
            output.seed,
            connection.name_of(output.backend_id or "-"),
            text.local(output.completed_at),
            output.title,
        )
        for output in listed
    ]
    lines = text.columns(heads, rows)
    connection.show([output.raw for output in listed], lines, empty="No output was found.")
    return int(Status.OK)
