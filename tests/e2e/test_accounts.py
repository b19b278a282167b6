"""Accounts as their users have them: from the code in the log to a program's token."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from director.client import Director
from director.client.errors import DirectorError
from tests.harness.processes import ROOT, Served, settings_of
from tests.harness.waits import until

PASSWORD = "a quiet harbour"


@pytest.mark.parametrize("processes", ["1", "3"])
def test_from_the_first_administrator_to_a_token(tmp_path: Path, processes: str) -> None:
    director = Served(
        tmp_path,
        arguments=["--port", "0", "--processes", processes],
        environment={"DIRECTOR_ACCOUNTS": "1"},
    )
    try:
        # The child prints it about when the parent prints that it is ready.
        until(lambda: "/sign-in/first/" in director.printed())
        code = re.findall(r"(/sign-in/first/\S+)", director.printed())[0]
        with httpx.Client(
            base_url=director.url, headers={"origin": director.url}, trust_env=False, timeout=60
        ) as vera:
            assert vera.get("/api/job-groups").status_code == 401
            form = {"name": "vera", "password": PASSWORD, "again": PASSWORD}
            assert vera.post(code, data=form).headers["location"] == "/"
            assert vera.get("/people").status_code == 200
            anna = vera.post("/api/people", json={"name": "anna", "role": "artist"}).json()
            assert anna["password_link"].startswith(f"{director.url}/sign-in/password/")
        variables = settings_of(tmp_path, environment={"DIRECTOR_ACCOUNTS": "1"})
        command = [
            sys.executable,
            "manage.py",
            "tokens",
            "create",
            "anna",
            "--scope",
            "submit",
            "--name",
            "nightly",
        ]
        made = subprocess.run(
            command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        token = made.stdout.splitlines()[-1]
        with Director(director.url, token=token) as client:
            assert client.whoami().name == "anna"
            own = client.tokens.create("reader", "read")
        command = [
            sys.executable,
            "-m",
            "director",
            "tokens",
            "create",
            "bot",
            "--scope",
            "read",
            "--days",
            "3",
        ]
        made = subprocess.run(
            command,
            env=variables
            | {"DIRECTOR_URL": director.url, "DIRECTOR_TOKEN": token, "DIRECTOR_ACCOUNTS": ""},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        with Director(director.url, token=made.stdout.splitlines()[-1]) as client:
            assert client.whoami().right == "see"
            client.tokens.revoke(client.whoami().token_id or "")
        with Director(director.url, token=token) as client:
            assert [one.name for one in client.tokens.list()] == ["reader", "nightly"]
            with pytest.raises(DirectorError, match="administrators"):
                client.people.list()
        socket = f"{director.url.replace('http', 'ws')}/ws/monitor"
        with connect(
            socket, additional_headers={"Authorization": f"Bearer {own.token}"}, proxy=None
        ) as stream:
            assert json.loads(stream.recv(timeout=30))["type"] != "error"
        with Director(director.url, token=token) as client:
            client.tokens.revoke(own.id)
        until(lambda: _is_refused(socket, own.token))
    finally:
        assert director.stop() == 0
    assert token not in director.printed()


def _is_refused(url: str, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    with connect(url, additional_headers=headers, proxy=None) as stream:
        return json.loads(stream.recv(timeout=30)).get("code") == "sign_in_required"
