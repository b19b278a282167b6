"""An orderly end: soon, with status 0, and the renders go on without the Director."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.simulators import Entry, Gpus, picture, simulated
from tests.harness.watcher import Watcher

pytestmark = pytest.mark.timeout(120)

#: Seconds that an end may take.
SOON = 5.0


def all_at_work(entries: list[Entry]) -> bool:
    """Whether all six prompts stand at the three backends, and three of them run."""
    kinds = [entry["kind"] for entry in entries]
    return kinds.count("accepted") == 6 and kinds.count("started") == 3


def end_soon(director: Director, number: int = signal.SIGTERM, *, twice: bool = False) -> None:
    """Send a signal, and hold that the Director ends in time, in order and without a complaint."""
    began = time.monotonic()
    code = director.stop(number, again_after=0.1 if twice else None)
    took = time.monotonic() - began
    assert code == 0, director.printed()
    assert took < SOON, f"it took {took:.1f} s:\n{director.printed()}"
    assert "Traceback" not in director.printed(), director.printed()


def begun(director: Director, gpus: Gpus) -> str:
    """Start, submit a group, and wait until at each backend a prompt of it runs and one waits."""
    director.start()
    director.wait_online()
    group_id = director.submit(picture(), gpus.ids * 2)
    gpus.wait_seen(all_at_work)
    return group_id


@pytest.mark.parametrize(
    ("number", "twice"),
    [
        pytest.param(signal.SIGTERM, False, id="once-SIGTERM"),
        pytest.param(signal.SIGTERM, True, id="twice-SIGTERM", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, False, id="once-SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, id="twice-SIGINT"),
    ],
)
def test_renders_go_on_and_are_taken_up(number: int, twice: bool, tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=1.5) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = begun(director, gpus)
        watcher = Watcher(director, group_id)
        assert watcher.started.wait(10)
        end_soon(director, number, twice=twice)
        # Both prompts of each backend run to their end although nobody is there.
        gpus.wait_idle()
        told = gpus.seen()
        assert [e["kind"] for e in told].count("ended") == 6
        assert not [e for e in told if e["kind"] in ("deleted", "interrupted")]
        assert laws.statuses(director.data, group_id)["completed"] == 0
        director.start()
        watcher.wait_ended()
        assert watcher.close_codes == [4012]
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 6}


STALLS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "hanging": [("hang_http", {"count": 0})],
    "silent": [("stall_sockets", {}), ("hang_http", {"count": 0})],
    "pouring": [("endless", {"count": 0, "megabytes_per_second": 2.0})],
    "not closing": [("stall_sockets", {})],
}
#: Stalls of which another one is tried every day.
SLOW_STALLS = {"silent", "not closing"}


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(faults, id=name, marks=[pytest.mark.slow] if name in SLOW_STALLS else [])
        for name, faults in STALLS.items()
    ],
)
def test_a_backend_that_stalls_delays_no_end(faults: list[tuple[str, dict[str, object]]], tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=3.0) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = begun(director, gpus)
        for name, options in faults:
            gpus.fault(name, **options)
        # Its looks every half second are caught in the stall by now.
        gpus.wait_seen(lambda seen: any(e["kind"] == "fault" for e in seen))
        time.sleep(1.0)
        end_soon(director)
        gpus.clear_faults()
        gpus.wait_idle()
        director.start()
        director.wait_settled()
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 6}


def test_a_post_that_hangs_delays_no_end_and_is_not_repeated(tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=0.2) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        director.wait_online()
        gpus.fault("delay_answer", seconds=8.0)
        group_id = director.submit(picture(), gpus.ids)
        gpus.wait_seen(lambda seen: sum(e.get("name") == "delay_answer" for e in seen) == len(gpus.ids))
        end_soon(director)
        director.start()
        director.wait_settled()
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 3}
        assert sum(e["kind"] == "accepted" for e in gpus.seen()) == 3


def test_many_watchers_are_all_told_with_4012(tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=1.0) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = begun(director, gpus)
        watchers = [Watcher(director, group_id) for _ in range(25)]
        for watcher in watchers:
            assert watcher.started.wait(10)
        end_soon(director)
        director.start()
        for watcher in watchers:
            watcher.wait_ended()
            assert watcher.close_codes == [4012]
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
