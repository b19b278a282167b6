"""The slow tests of a change are chosen by the files that they name."""

from __future__ import annotations

import pytest

from tests.e2e import test_killed_at_every_step as kills
from tests.harness.director import Step
from tests.harness.processes import ROOT

STEPS = {
    f"{table}: {name}": step
    for table in ("LIFE", "UNSURE", "CANCEL", "TIMEOUT", "RETRY", "RECOVERY")
    for name, step in getattr(kills, table).items()
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_a_kill_names_a_file_that_exists(step: Step) -> None:
    assert all((ROOT / path).is_file() for path in step.paths)
