from __future__ import annotations

import pytest

from backends.comfyui.versions import keeps_prompt_id, supports_targeted_interrupt


@pytest.mark.parametrize(
    "version",
    [
        "0.3.57",
        "v0.3.57",
        "0.3.64",
        "0.3.100",
        "0.4",
        "0.4.0rc1",
        "1.0.0",
        "0.3.57.post1",
        "0.3.57-3-gabc",
        "0.3.58-dev",
    ],
)
def test_versions_that_stop_one_prompt(version: str) -> None:
    assert supports_targeted_interrupt(version)


@pytest.mark.parametrize(
    "version",
    [
        None,
        "",
        "unknown",
        "0.3.56",
        "0.3.9",
        "0.3",
        "0.2.99",
        "0.3.57rc1",
        "0.3.57-dev",
        "0.3.57.dev4",
        "0.3.57-alpha.1",
        "0.3.56-99-gabc",
        "0",
        "x0.3.64",
    ],
)
def test_versions_that_would_stop_whatever_runs(version: str | None) -> None:
    assert not supports_targeted_interrupt(version)


@pytest.mark.parametrize(
    ("version", "kept"),
    [("0.3.44", False), ("0.2.9", False), ("0.3.45", True), ("v1.0.0", True), (None, True), ("x", True)],
)
def test_only_a_readable_old_version_is_known_to_choose_its_own_prompt_ids(version: str | None, kept: bool) -> None:
    assert keeps_prompt_id(version) is kept
