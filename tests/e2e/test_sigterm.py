"""An orderly end: soon, with status 0, and the renders continue without the Director."""

import signal
from pathlib import Path

import pytest

from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.graphs import picture
from tests.harness.processes import stop_in_order
from tests.harness.simulators import Gpus, simulated
from tests.harness.watcher import Watcher

pytestmark = pytest.mark.timeout(120)

#: Seconds within which the Director ends.
SOON = 5.0


def start_busy(director: Director, gpus: Gpus) -> str:
    """Start, submit a group, and wait until each backend has a running and a pending prompt of it."""
    director.start()
    director.wait_online()
    group_id = director.submit(picture(), gpus.ids * 2)

    def is_busy(kinds: list[str]) -> bool:
        return kinds.count("accepted") == 6 and kinds.count("started") == 3

    gpus.wait_seen(lambda seen: is_busy([entry["kind"] for entry in seen]))
    return group_id


def finish(director: Director, gpus: Gpus, group_id: str, completed: int) -> None:
    """Wait until the restarted Director has stored each result, and check the laws."""
    director.wait_settled()
    stop_in_order(director)
    laws.check(director.data, gpus.seen())
    assert laws.statuses(director.data, group_id) == {"completed": completed}


@pytest.mark.parametrize(
    ("number", "again_after"), [(signal.SIGTERM, None), (signal.SIGINT, 0.1)], ids=["once-SIGTERM", "twice-SIGINT"]
)
def test_renders_continue_and_watchers_resume(number: int, again_after: float | None, tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=1.0) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = start_busy(director, gpus)
        watchers = [Watcher(director, group_id) for _ in range(25)]
        for watcher in watchers:
            assert watcher.started.wait(10)
        stop_in_order(director, number=number, within=SOON, again_after=again_after)
        gpus.wait_idle()
        kinds = [entry["kind"] for entry in gpus.seen()]
        assert kinds.count("ended") == 6
        assert not {"deleted", "interrupted"} & set(kinds)
        assert laws.statuses(director.data, group_id)["completed"] == 0
        director.start()
        for watcher in watchers:
            watcher.wait_ended()
            assert watcher.close_codes == [4012]
        finish(director, gpus, group_id, completed=6)


STALLS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "hanging": [("hang_http", {"count": 0})],
    "silent": [("stall_sockets", {}), ("hang_http", {"count": 0})],
    "pouring": [("endless", {"count": 0, "megabytes_per_second": 2.0})],
    "not closing": [("stall_sockets", {})],
}


@pytest.mark.parametrize(
    "name", ["hanging", "pouring", *(pytest.param(one, marks=pytest.mark.slow) for one in ("silent", "not closing"))]
)
def test_a_backend_that_stalls_delays_no_end(name: str, tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=1.0) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = start_busy(director, gpus)
        for fault, options in STALLS[name]:
            gpus.fault(fault, **options)
        # The lookups, every half second, are caught in the stall by the end of a render.
        gpus.wait_seen(lambda seen: any(e["kind"] == "fault" for e in seen))
        gpus.wait_seen(lambda seen: any(e["kind"] == "ended" for e in seen))
        stop_in_order(director, within=SOON)
        gpus.clear_faults()
        gpus.wait_idle()
        director.start()
        finish(director, gpus, group_id, completed=6)


def test_post_that_hangs_delays_no_end_and_is_not_repeated(tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=0.2) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        director.wait_online()
        gpus.fault("delay_answer", seconds=6.0)
        group_id = director.submit(picture(), gpus.ids)
        gpus.wait_seen(lambda seen: sum(e.get("name") == "delay_answer" for e in seen) == 3)
        stop_in_order(director, within=SOON)
        director.start()
        finish(director, gpus, group_id, completed=3)
        assert sum(e["kind"] == "accepted" for e in gpus.seen()) == 3
