"""Three submitters, three unequal machines and two runners, each a process."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import laws
from tests.harness.graphs import picture
from tests.harness.machines import Build, Machines, plugged_in
from tests.harness.process_farm import ProcessFarm
from tests.harness.servers import needs_servers

pytestmark = [pytest.mark.timeout(300), needs_servers]


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Machines]:
    builds = [Build(f"gpu-{at}", seconds) for at, seconds in enumerate((0.1, 0.2, 0.4))]
    with plugged_in(tmp_path, builds) as running:
        yield running


def test_submitters_keep_their_shares_when_a_runner_is_killed(farm: ProcessFarm) -> None:
    web = farm.web
    web.start()
    runners = [farm.runner(name) for name in ("room-1", "room-2")]
    web.wait_online()
    for backend_id in farm.gpus.ids:
        web.ask("POST", f"/api/backends/{backend_id}/pause")
    groups = {
        web.submit(picture(), ["*"], count=30, submitter=name): name
        for name in ("anna", "ben", "cleo")
    }
    urgent = web.submit(picture(), ["*"], count=3, submitter="anna", priority=60)
    for backend_id in farm.gpus.ids:
        web.ask("POST", f"/api/backends/{backend_id}/resume")
    farm.gpus.wait_kind("started", 30)
    runners[0].kill()
    farm.check_completed_once(*groups, urgent)
    entries = farm.gpus.seen()
    group_of = {
        child["job_id"]: group_id
        for group_id in (*groups, urgent)
        for child in web.group(group_id)["child_jobs"]
    }
    jobs = laws.Seen(entries).job
    order = [group_of[jobs[one["prompt_id"]]] for one in entries if one["kind"] == "started"]
    # A machine may start the one that it took behind another one later.
    assert order[:18].count(urgent) == 3
    order = [group_id for group_id in order if group_id != urgent]
    # Shares are in seconds: the submitter whose jobs run at the slow machine starts fewer, and one
    # whose prompts were those of the killed runner none until another runner has taken them over.
    # First come, first served would give each of these parts to one submitter.
    for part, submitters in ((order[:30], 3), (order[30:50], 2)):
        counted = Counter(groups[group_id] for group_id in part)
        assert sum(counted[name] >= 3 for name in groups.values()) >= submitters, counted
