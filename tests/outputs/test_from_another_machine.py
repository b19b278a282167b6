"""``serve --host 0.0.0.0`` with a token, as a process: what a phone on the network meets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.harness.processes import ROOT, Served

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_with_a_token_serve_opens_to_the_network_and_asks_everybody(tmp_path: Path) -> None:
    served = Served(
        tmp_path, arguments=("--host", "0.0.0.0", "--port", "0", "--no-runner"), environment={"DIRECTOR_TOKEN": TOKEN}
    )
    try:
        with httpx.Client(base_url=served.url, trust_env=False) as phone:
            assert phone.get("/api/backends").status_code == 401
            assert phone.get("/api/backends", headers=BEARER).status_code == 200
            assert phone.get("/").headers["Location"].startswith("/sign-in")
            assert "Token of this Director" in phone.get("/sign-in").text
            assert phone.get("/static/director/tokens.css").status_code == 200
            origin = {"Origin": served.url}
            assert phone.post("/sign-in", data={"token": TOKEN}, headers=origin).status_code == 302
            assert phone.get("/api/backends").status_code == 200
            session = "; ".join(f"{name}={value}" for name, value in phone.cookies.items())
        stream = served.url.replace("http", "ws") + "/ws/job-groups/jg_000000000000"
        codes = [
            _close_code(stream, **headers)
            for headers in ({}, BEARER, {"Cookie": session}, {"Cookie": session, **origin})
        ]
        assert codes == [
            ("sign_in_required", 4401),
            ("group_not_found", 4404),
            ("sign_in_required", 4401),
            ("group_not_found", 4404),
        ]
        assert TOKEN not in served.printed()
    finally:
        assert served.stop() == 0


def _close_code(url: str, **headers: str) -> tuple[str, int]:
    """Return the code in the first frame, and the one that the socket is closed with."""
    with connect(url, additional_headers=headers, proxy=None) as socket:
        said = json.loads(socket.recv(timeout=10))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        return said["code"], closed.value.rcvd.code


@pytest.mark.parametrize("token", ["short", "with a blank in it", "zeichenmitümlaut"])
def test_a_token_that_is_too_weak_or_cannot_be_sent_ends_the_start(token: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DIRECTOR_TOKEN": token, "DIRECTOR_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "DIRECTOR_TOKEN must have 16 to 512" in done.stderr
