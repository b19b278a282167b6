"""``director mcp``: the tools of an agent, on standard input and output."""

import click

from director.cli.connection import Connection, with_connection
from director.cli.exit_status import usage_error


@click.command
@with_connection
def mcp(connection: Connection) -> None:
    """Serve the tools of an agent on standard input and output (Model Context Protocol). The agent
    starts it.
    """
    try:
        from director.mcp import make_server  # noqa: PLC0415 an optional package
    except ModuleNotFoundError as missing:
        hint = "Install it in the Director's folder: .venv-run/bin/pip install '.[mcp]'"
        raise usage_error(f"director mcp needs the Python package {missing.name}.", hint) from None
    make_server(connection.url, connection.token, connection.submitter).run()
