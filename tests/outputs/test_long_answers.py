"""Long answers of a real ``serve``: a client that does not read, and a backend that dies meanwhile."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness.graphs import text_to_image
from tests.harness.processes import Served, serving
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

#: Above what two kernels hold of a connection, below what is redirected.
SIZE = 60 * 2**20


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, SimulatorThread, str]]:
    folder = tmp_path_factory.mktemp("director")
    # Answers of the backend, not of the storage.
    environment = {"DIRECTOR_CAPTURE": "0"}
    with (
        SimulatorThread(output_dir=folder / "comfy") as sims,
        serving(folder, sims.urls, environment=environment) as director,
    ):
        backend = httpx.get(f"{director.url}/api/backends").json()["backends"][0]["backend_id"]
        body = {"workflow_json": text_to_image(), "backend_ids": [backend]}
        made = httpx.post(f"{director.url}/api/job-group", json=body).json()
        group, job = made["job_group_id"], made["child_jobs"][0]["job_id"]
        url = f"{director.url}/api/job-groups/{group}"
        until(lambda: httpx.get(url).json()["completed_at"])
        (output,) = (folder / "comfy" / "output").glob("*.png")
        written = output.stat().st_mtime
        output.write_bytes(bytes(SIZE))
        # A younger file would be another job's.
        os.utime(output, (written, written))
        yield director, sims, f"/api/job-groups/{group}/jobs/{job}/outputs/0"


def _resident(served: Served) -> int:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def _asking(served: Served, path: str, **headers: str) -> socket.socket:
    """Ask for a path and read nothing of the answer."""
    address = urlsplit(served.url)
    client = socket.create_connection(("127.0.0.1", address.port or 0), timeout=60)
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
    return client


def _settled(served: Served) -> int:
    """Return the process's memory once it has not grown for half a second."""
    largest, since = _resident(served), time.monotonic()
    while time.monotonic() - since < 0.5:
        now = _resident(served)
        if now > largest + 2**20:
            largest, since = now, time.monotonic()
        time.sleep(0.05)
    return largest


def test_a_client_that_leaves_with_its_whole_file_is_no_broken_answer(
    farm: tuple[Served, SimulatorThread, str],
) -> None:
    director, _, path = farm
    aborted = director.printed().count("response aborted")
    for _ in range(40):
        with _asking(director, path, Range="bytes=0-99999") as client:
            answer = client.recv(65_536)
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 100_000:
                part = client.recv(65_536)
                assert part
                answer += part
    assert httpx.get(f"{director.url}{path}", headers={"Range": "bytes=0-0"}).status_code == 206
    assert director.printed().count("response aborted") == aborted


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_what_a_client_does_not_read_is_not_held(farm: tuple[Served, SimulatorThread, str]) -> None:
    director, _, path = farm
    before = _settled(director)
    clients = [_asking(director, path) for _ in range(3)]
    assert _settled(director) - before < SIZE / 2
    # It was only waiting: who reads gets all of it.
    read = 0
    while read < SIZE:
        part = clients[0].recv(2**20)
        assert part
        read += len(part)
    for client in clients:
        client.close()


def test_part_of_a_file_whose_backend_breaks_off_arrives_with_its_headers(
    farm: tuple[Served, SimulatorThread, str],
) -> None:
    """A reset would drop the headers: nginx would answer that no web process is there."""
    director, sims, path = farm
    sims.fault("cut", route="/view", method="GET", count=5, part=1e-5)
    try:
        for _ in range(5):
            with _asking(director, path) as client:
                answer = b"".join(iter(lambda read=client.recv: read(65_536), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert f"content-length: {SIZE}".encode() in head.lower()
            assert len(body) < SIZE
    finally:
        sims.clear_faults()


def test_an_answer_whose_backend_dies_is_cut(farm: tuple[Served, SimulatorThread, str]) -> None:
    """The last test: a simulator that dies while it sends a file may leave the file's socket
    registered in its loop.
    """
    director, sims, path = farm
    client = _asking(director, path)
    head = client.recv(65_536)
    assert f"content-length: {SIZE}".encode() in head.lower()
    sims.restart()
    read = len(head)
    with pytest.raises((ConnectionResetError, EOFError)):
        while read < SIZE:
            part = client.recv(2**20)
            read += len(part)
            if not part:
                raise EOFError
    client.close()
    assert "response aborted" in director.printed()
    assert httpx.get(f"{director.url}{path}", timeout=60).status_code == 200
