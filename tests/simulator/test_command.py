"""The command line of the simulator, and the requests that it refuses before any route."""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest

from backends.simulator import Simulator
from backends.simulator.cli import add_arguments, main, simulators
from backends.simulator.config import COMMON_CHECKPOINTS, DEFAULT_CHECKPOINTS, RECORDED_VERSIONS
from tests.harness.graphs import strangers_picture
from tests.harness.processes import ROOT
from tests.harness.servers import free_port
from tests.harness.simulator_thread import SimulatorThread

MODULE = [sys.executable, "-m", "backends.simulator"]
MANAGE = [sys.executable, "manage.py", "simulate"]


@contextmanager
def started(*arguments: str, command: list[str] = MODULE) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def announced(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    urls: list[str] = json.loads(process.stdout.readline())["urls"]
    return urls


def post(url: str, body: object) -> None:
    httpx.post(f"{url}/prompt", json=body, timeout=10, trust_env=False).raise_for_status()


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


LONG = strangers_picture(1, seconds=240)


@pytest.mark.parametrize(("command", "number"), [(MODULE, signal.SIGTERM), (MANAGE, signal.SIGINT)])
def test_three_servers_listen_and_end_on_a_signal(
    command: list[str], number: signal.Signals
) -> None:
    with started("--port", "0", "--count", "3", "--json", command=command) as process:
        urls = announced(process)
        assert len(set(urls)) == 3
        for url in urls:
            post(url, {"prompt": LONG})
        process.send_signal(number)
        # On an idle machine it takes 0.2 s; the three prompts would take minutes.
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_further_servers_take_the_next_ports_and_have_names() -> None:
    for _ in range(5):
        port = free_port()
        with started("--port", str(port), "--count", "2", "--name", "rig") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
        if lines[0]:
            break
    for number, line in enumerate(lines):
        head = f"rig-{number + 1}: simulated ComfyUI at http://127.0.0.1:{port + number}"
        assert line.startswith(head)


def test_command_offers_the_checkpoints_of_common_workflows() -> None:
    (server,) = simulators(parsed("--model", "mine.ckpt"))
    assert server.config.checkpoints == (*DEFAULT_CHECKPOINTS, *COMMON_CHECKPOINTS, "mine.ckpt")
    assert "v1-5-pruned-emaonly.safetensors" in server.config.checkpoints
    assert server.config.version == RECORDED_VERSIONS[-1]


def test_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatorThread() as taken:
        port = taken[0].port
        assert main(["--port", str(port)]) == 1
    found = capsys.readouterr().err
    assert f"Port {port} on 127.0.0.1 is in use. Stop the server that listens there" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "65536"], "'65536' is no whole number from 0 to 65535"),
        (["--count", "0"], "'0' is no whole number from 1"),
        (["--seconds", "nan"], "'nan' is no number from 0 up"),
        (["--fault", "flood"], "There is no fault 'flood'. Known:"),
        (["--fault", "slow:seconds=x"], "seconds='x' is no float"),
        (
            ["--comfyui-version", "foo"],
            "'foo' is no version: two or three numbers, such as 0.3.64 or 0.33.0",
        ),
        (["--comfyui-version", "0.33.0-dev"], "'0.33.0-dev' is no version"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_audit_log_that_cannot_be_written_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port", "0", "--audit-log", str(tmp_path)]) == 1
    assert "--audit-log takes a file that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", 200),
        ("127.0.0.1:8188", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:8188", "http://evil.example", 403),
        ("127.0.0.1:8188", "http://127.0.0.1", 200),
        ("127.0.0.1:8188", "null", 200),
        ("comfy.example:8188", "http://evil.example", 200),
        ("[::1]:8188", "http://evil.example", 403),
    ],
)
async def test_foreign_page_may_not_reach_a_loopback_host(
    host: str, origin: str, status: int, sim: Simulator
) -> None:
    headers = {"Host": host, "Origin": origin}
    async with aiohttp.ClientSession(sim.url) as session:
        for method in ("GET", "OPTIONS"):
            async with session.request(method, "/prompt", headers=headers) as answer:
                assert answer.status == status


async def test_foreign_page_gets_no_socket(sim: Simulator) -> None:
    async with aiohttp.ClientSession(sim.url) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/ws", headers={"Origin": "http://evil.example"})
        assert refused.value.status == 403
