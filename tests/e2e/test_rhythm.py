"""A sick neighbour costs a healthy machine no more than a healthy one; ``tests.e2e.rhythm`` measures it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.rhythm import ALLOWED, measured

#: What the machine on which tests run does beside this weighs on few prompts as it likes.
_BUSY = 1.5


@pytest.mark.timeout(180)
def test_the_idle_gap_beside_a_sick_neighbour_is_that_beside_a_healthy_one(tmp_path: Path) -> None:
    names = ["sockets that break", "questions not answered", "a render that never ends"]
    _, *beside = measured(tmp_path, names, rounds=1).figures()
    assert all(one.reaches(ALLOWED * _BUSY) for one in beside), [one.cells() for one in beside]
