"""The tiers of the tests name files that exist."""

from __future__ import annotations

import importlib
import operator
import re

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
def test_step_of_a_kill_names_a_function_in_its_file(step: Step) -> None:
    module, _, name = step.at.partition(":")
    assert callable(operator.attrgetter(name)(importlib.import_module(module)))
    assert all((ROOT / path).is_file() for path in step.paths)


def test_what_runs_on_postgresql_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^POSTGRES_TESTS = ((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    assert listed is not None
    paths = listed[1].replace("\\", "").split()
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
