"""The short form of ``python -m tests.browser.load``, with limits that a busy machine keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.load import measure


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_five_hundred_groups_and_fifty_that_run_stay_light(browser: Any, tmp_path: Path) -> None:
    load = measure(browser, tmp_path, seconds=9)
    assert load.first_paint < 2.0
    for one in (load.groups, load.group):
        assert one.share < 0.5, one
        assert one.heap < 1.5, one
        assert one.nodes < 1.1, one
        assert one.listeners < 1.1, one
