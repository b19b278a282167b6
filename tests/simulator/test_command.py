"""The command: prints where it listens, says what is wrong, ends at once when told."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from backends.simulator import SimulatorThread, read_audit_log
from backends.simulator.cli import add_arguments, main, simulators
from backends.simulator.config import COMMON_CHECKPOINTS, DEFAULT_CHECKPOINTS, Config

ROOT = Path(__file__).resolve().parents[2]
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


LONG = {
    "1": {"class_type": "TestSampler", "inputs": {"seed": 1, "steps": 9, "cfg": 7, "sampler_name": "e", "delay": 60}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


@pytest.mark.parametrize("command", [MODULE, MANAGE], ids=["module", "manage.py"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_three_servers_listen_and_end_on_a_signal(command: list[str], number: signal.Signals) -> None:
    with started("--port", "0", "--count", "3", "--json", command=command) as process:
        urls = announced(process)
        assert len(set(urls)) == 3
        for url in urls:
            post(url, {"prompt": LONG})
        process.send_signal(number)
        # On an idle machine it takes 0.2 s; the three prompts would take minutes.
        assert process.wait(timeout=5) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_each_server_has_a_line_with_its_name() -> None:
    with started("--port", "0", "--count", "2", "--name", "rig") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0].startswith("rig-1: simulated ComfyUI at http://127.0.0.1:")
    assert lines[1].startswith("rig-2: ")


def test_further_servers_take_the_next_ports() -> None:
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with started("--port", str(port), "--count", "2", "--json") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
        if line:
            break
    assert json.loads(line)["urls"] == [f"http://127.0.0.1:{port + n}" for n in range(2)]


def test_killed_server_leaves_an_audit_log_and_the_next_one_records_the_loss(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    arguments = ("--port", "0", "--json", "--audit-log", str(path))
    with started(*arguments) as process:
        post(announced(process)[0], {"prompt": LONG, "prompt_id": "mine"})
        assert next(e["kind"] for e in read_audit_log(path)) == "accepted"
        process.kill()
        process.wait()
    with started(*arguments) as process:
        announced(process)
        lost = [e["prompt_id"] for e in read_audit_log(path) if e["kind"] == "lost"]
    assert lost == ["mine"]


@pytest.mark.parametrize(("arguments", "further"), [([], ()), (["--model", "mine.ckpt"], ("mine.ckpt",))])
def test_command_offers_the_checkpoints_of_common_workflows(arguments: list[str], further: tuple[str, ...]) -> None:
    (server,) = simulators(parsed(*arguments))
    assert server.config.checkpoints == (*DEFAULT_CHECKPOINTS, *COMMON_CHECKPOINTS, *further)
    assert "v1-5-pruned-emaonly.safetensors" in server.config.checkpoints
    assert Config().checkpoints == DEFAULT_CHECKPOINTS


def test_pause_for_garbage_is_an_option_and_off_without_it() -> None:
    (pausing,), (other,) = simulators(parsed("--gc-pause", "0.25")), simulators(parsed())
    assert (pausing.config.gc_pause, other.config.gc_pause) == (0.25, 0.0)


def test_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatorThread() as taken:
        port = taken[0].port
        assert main(["--port", str(port)]) == 1
    found = capsys.readouterr().err
    assert f"Port {port} on 127.0.0.1 is in use. Stop the server that listens there" in found


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "65536"], "'65536' is no whole number from 0 to 65535"),
        (["--count", "0"], "'0' is no whole number from 1"),
        (["--seconds", "-1"], "'-1' is no number from 0 up"),
        (["--seconds", "nan"], "'nan' is no number from 0 up"),
        (["--fault", "flood"], "There is no fault 'flood'. Known:"),
        (["--fault", "slow:seconds=x"], "seconds='x' is no float"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert told in capsys.readouterr().err
