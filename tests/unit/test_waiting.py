"""The sentence that says why a job waits."""

from __future__ import annotations

import pytest

from jobgroups.waiting import BackendNow, waiting_reason


@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        (0, "In the queue of gpu-1."),
        (1, "In the queue of gpu-1, behind 1 that is not ours."),
        (2, "In the queue of gpu-1, behind 2 that are not ours."),
    ],
)
def test_the_prompts_of_others_are_counted(foreign: int, said: str) -> None:
    backend = BackendNow(
        backend_id="gpu-1", enabled=True, away_since=None, reason="", foreign=foreign
    )
    assert waiting_reason(backend, state="accepted", runner_alive=True) == said
