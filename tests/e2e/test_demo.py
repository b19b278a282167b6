"""``manage.py demo``: its output, its files and the end of its processes."""

import os
import re
import shutil
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.harness.processes import Launched, migrated
from tests.harness.waits import until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for left processes in /proc"
)
#: Seconds for what takes a few on an idle machine.
WITHIN = 90.0


class Demo(Launched):
    """A fast demo, its data folder, and the processes that were started with this folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.data = folder / "demo"
        shutil.copytree(migrated(), self.data)  # in half of the time of a first start
        words = ["demo", "--seconds", "0.5", "--folder", str(self.data), *options]
        super().__init__(folder, words, {})
        self.start(wait=False)

    def processes(self) -> dict[int, str]:
        mark = f"DIRECTOR_DATA_DIR={self.data}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found


@pytest.fixture(autouse=True, scope="module")
def usual_port() -> Iterator[None]:
    """Take the port that every demo prefers: two of them could choose it at the same moment."""
    with socket.socket() as taken:
        # Another test process may have it.
        with suppress(OSError):
            taken.bind(("127.0.0.1", 9820))
            taken.listen()
        yield


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    started = Demo(tmp_path)
    yield started
    started.close()
    # The processes of ``serve`` end with it, in order.
    until(lambda: not started.processes(), WITHIN, started.processes)


@pytest.mark.parametrize(
    "end",
    [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, None))],
)
def test_demo_shows_three_groups_and_ends_with_status_0(
    end: signal.Signals | None, tmp_path: Path
) -> None:
    """It ends on a signal, or by itself with ``--once``. It checks the status and the images of its
    groups itself.
    """
    demo = Demo(tmp_path, *([] if end else ["--once"]))
    if end:
        url = demo.wait_printed(r"Watch it in a browser: (http://localhost:\d+)", WITHIN)[1]
        demo.wait_printed("press Ctrl-C", WITHIN)
        health = httpx.get(f"{url}/api/health", trust_env=False, timeout=WITHIN).json()
        assert health["checks"]["runner"]["status"] == "ok"
        demo.process.send_signal(end)
    assert demo.process.wait(WITHIN) == 0, demo.printed()
    printed = demo.printed()
    assert "CHECK FAILED" not in printed
    assert printed.count("\nsaved ") == 11, printed
    assert re.search(r"gpu-2 seed \d+: CUDA out of memory \(out_of_memory\)", printed), printed
    assert f"Images: {demo.data / 'images'}" in printed
    kinds = Counter(path.suffix for path in (demo.data / "images").iterdir())
    assert kinds == {".png": 8, ".webm": 3}
    with closing(sqlite3.connect(demo.data / "director.sqlite3")) as database:
        rows = database.execute(
            "SELECT status, completed_count, failed_count FROM jobgroups_jobgroup ORDER BY "
            "created_at"
        ).fetchall()
    assert rows == [("completed", 3, 0), ("partial_complete", 2, 1), ("completed", 3, 0)]
    # The Director is killed after the three starts and before the first end.
    before, _, after = printed.partition("3. Longer jobs")[2].partition("process was killed.")
    assert [before.count(word) for word in (": running", ": completed")] == [3, 0]
    assert [after.count(word) for word in (": running", ": completed")] == [0, 3]
    assert "the stream resumes with ?since=4" in after
    assert demo.processes() == {}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["gpu-1 seed .*: running", "The Director's process was killed"])
def test_interrupted_demo_leaves_no_process(moment: str, demo: Demo) -> None:
    demo.wait_printed(moment, WITHIN)
    assert demo.stop(signal.SIGINT, within=WITHIN) == 130, demo.printed()
    assert "The Director was restarted" not in demo.printed()


def test_killed_demo_leaves_no_process(demo: Demo) -> None:
    """The closed standard input ends the child process."""
    demo.wait_printed("gpu-1 seed .*: running", WITHIN)
    assert len(demo.processes()) >= 3
    demo.process.kill()
    until(lambda: not demo.processes(), WITHIN, demo.processes)


def test_unexpected_end_of_the_director_fails_the_demo(demo: Demo) -> None:
    demo.wait_printed("gpu-1 seed .*: running", WITHIN)
    (child,) = (pid for pid, words in demo.processes().items() if "child_process" in words)
    os.kill(child, signal.SIGKILL)
    assert demo.process.wait(WITHIN) == 1, demo.printed()
    # Either the end of the process or the end of the stream is detected first.
    assert re.search("Director ended with status -9|event stream was closed", demo.printed())
    assert "Traceback" not in demo.printed()
