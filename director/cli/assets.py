"""``director assets``: input files that the Director stores, and the files that a workflow names."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from director.cli import option_types, text
from director.cli.connection import Connection, with_connection
from director.cli.exit_status import usable
from director.client import Asset, Director
from jobgroups.workflow.assets import FILE_INPUTS


@click.group
@option_types.connection_options
def assets() -> None:
    """Input files that are stored at the Director and sent to the backends of a job."""


@assets.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=Path)
@with_connection
def upload(connection: Connection, paths: Sequence[Path]) -> None:
    """Store files. A file whose content the Director has is not sent."""
    _show(connection, [upload_file(connection.director, path) for path in paths])


@assets.command("list")
@with_connection
def list_(connection: Connection) -> None:
    """List all assets, newest first."""
    _show(connection, connection.director.assets.list())


@assets.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=option_types.require_text)
@with_connection
def delete(connection: Connection, ids: Sequence[str]) -> None:
    """Delete assets that no open group needs."""
    for asset_id in ids:
        connection.director.assets.delete(asset_id)
    connection.show({"deleted": list(ids)}, [f"{asset_id}: deleted" for asset_id in ids])


def upload_file(director: Director, path: Path) -> Asset:
    """Return the asset with the content of a local file.

    Raises:
        CommandError: It cannot be read.
    """
    with usable(path):
        return director.assets.upload(path)


class LocalFile(str):
    """Path of a file that is uploaded."""

    __slots__ = ()


def upload_files(director: Director, value: Any, *, by_name: bool = False) -> Any:
    """Return JSON with a reference in place of each ``LocalFile``, which is uploaded once.

    ``by_name``: also of each local file that an input of files names.
    """
    references: dict[str, Any] = {}

    def walk(value: Any, name: str = "") -> Any:
        if isinstance(value, dict) and "__type" not in value:
            return {key: walk(entry, key) for key, entry in value.items()}
        if isinstance(value, list):
            return [walk(entry) for entry in value]
        is_named = by_name and name.rpartition(".")[2] in FILE_INPUTS and isinstance(value, str)
        if not isinstance(value, LocalFile) and not (
            is_named and Path(value).expanduser().is_file()
        ):
            return value
        if value not in references:
            references[value] = upload_file(director, Path(value).expanduser()).reference
        return references[value]

    return walk(value)


def _show(connection: Connection, entries: Iterable[Asset]) -> None:
    rows = list(entries)
    heads = ("ID", "SIZE", "TYPE", "USED", "NAME")
    columns = [
        (
            asset.id,
            asset.size_bytes,
            asset.content_type,
            text.local(asset.used_at or asset.created_at),
            asset.name,
        )
        for asset in rows
    ]
    raw: list[dict[str, Any]] = [asset.raw for asset in rows]
    connection.show(raw, text.columns(heads, columns), empty="There are no assets.")
