"""Several runners over one PostgreSQL: shares, takeovers, and no backend that moves back and forth."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Leases
from tests.e2e.faults.preload import library, needs_preload
from tests.harness.graphs import picture
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import stop_in_order
from tests.harness.servers import needs_servers
from tests.harness.waits import until

pytestmark = [pytest.mark.timeout(300), needs_servers, pytest.mark.slow]

#: Seconds within which another runner acquires the leases of a host that vanished.
VANISHED = 25.0
BACKENDS = 8
GPUS = {"count": BACKENDS, "seconds": 1.0}


def test_runners_share_the_backends_while_they_work_and_no_attempt_suffers(
    farm: ProcessFarm, leases: Leases
) -> None:
    """A second one starts, a third one ends in order, the second one is killed."""
    farm.web.start()
    farm.runner("room-1")
    leases.wait(room_1=8)
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 8)
    farm.gpus.wait_kind("started", 8)
    second = farm.runner("room-2")
    leases.wait(room_1=4, room_2=4)
    settled = leases.epochs()
    leases.heartbeats()
    assert leases.epochs() == settled, "backends went to and fro"
    third = farm.runner("room-3")
    until(lambda: sorted(leases.held().values()) == [2, 3, 3])
    stop_in_order(third)
    assert leases.wait(room_1=4, room_2=4) < 9.0
    assert leases.doubtful() == 0, "backends were given up in the middle of sending"
    second.kill()
    took = leases.wait(room_1=8)
    assert took < 9.0, f"its lock was free at once, and it took {took:.1f} s"
    farm.check_completed_once(group_id)
    assert "never_accepted" not in leases.attempts()


def test_a_runner_that_was_paused_says_so_writes_nothing_and_gets_its_share_again(
    farm: ProcessFarm, leases: Leases
) -> None:
    farm.web.start()
    first = farm.runner("room-1")
    farm.runner("room-2")
    leases.wait(room_1=4, room_2=4)
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 3)
    farm.gpus.wait_kind("started", 8)
    os.killpg(first.process.pid, signal.SIGSTOP)
    took = leases.wait(room_2=8)
    assert took <= VANISHED, f"it took {took:.1f} s"
    until(lambda: leases.attempts()["success"] == 3 * BACKENDS)
    taken = leases.epochs()
    os.killpg(first.process.pid, signal.SIGCONT)
    text = first.wait_printed(r"This runner has renewed nothing for (\d+) s")
    assert int(text[1]) >= 12
    assert {name: epoch for name, epoch in leases.epochs().items() if epoch < taken[name]} == {}
    leases.wait(room_1=4, room_2=4)
    farm.check_completed_once(group_id)
    assert "Traceback" not in first.printed(), first.printed()


@needs_preload
def test_a_machine_whose_clock_is_an_hour_ahead_takes_nothing_away(
    farm: ProcessFarm, leases: Leases, tmp_path: Path
) -> None:
    """Leases and heartbeats go by PostgreSQL's clock."""
    offset = tmp_path / "offset"
    offset.write_text("3600")
    farm.web.start()
    farm.runner("room-1")
    leases.wait(room_1=8)
    ahead = {"LD_PRELOAD": str(library("clock")), "CLOCK_OFFSET_FILE": str(offset)}
    farm.runner("room-2", **ahead)
    leases.wait(room_1=4, room_2=4)
    settled = leases.epochs()
    leases.heartbeats()
    assert leases.epochs() == settled, "backends went to and fro"
    age = farm.check("runner")["detail"]
    assert age.startswith("2 alive; the last heartbeat was "), age
