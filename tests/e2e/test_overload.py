"""A database that takes no writes for some seconds: submissions over real connections are refused
in time, or wait.
"""

import http.client
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.harness.graphs import picture
from tests.harness.processes import Served, stop_in_order

BODY = json.dumps({"workflow": picture()}).encode()
JOBS = "/api/v2/jobs"


def begin(served: Served) -> http.client.HTTPConnection:
    """Send a submission without the end of its body."""
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    connection.putrequest("POST", JOBS)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders(BODY[:100])
    return connection


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="embedded", marks=pytest.mark.slow),
        pytest.param(("--no-runner",), id="apart"),
    ],
)
def test_submission_is_refused_in_time_and_one_whose_client_has_gone_is_not_stored(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    accepts = {"DIRECTOR_ACCEPT_WITHOUT_RUNNER": "1"}
    served = Served(tmp_path, environment=accepts, arguments=("--port", "0", *arguments))
    with (
        closing(served),
        closing(
            sqlite3.connect(served.data / "director.sqlite3", isolation_level=None, timeout=60)
        ) as writer,
        closing(begin(served)) as slow,
    ):
        writer.execute("BEGIN IMMEDIATE")
        with closing(begin(served)) as gone:
            gone.send(BODY[100:])
        refused = served.ask(
            "POST", JOBS, content=BODY, headers={"Content-Type": "application/json"}
        )
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["error"]["details"] == {"code": "overloaded"}
        assert refused.elapsed.total_seconds() < 15
        writer.execute("ROLLBACK")
        # Its five seconds begin now. The writer takes those before it first.
        slow.send(BODY[100:])
        answer = slow.getresponse()
        made = json.load(answer)
        assert answer.status == 201, made
        assert [job["id"] for job in served.ask("GET", JOBS).json()["jobs"]] == [made["id"]]
        stop_in_order(served)
