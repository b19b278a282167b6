"""Signatures of both clients, checked by mypy (``make lint``); never imported."""

from pathlib import Path
from typing import assert_type

from director.client import (
    AsyncDirector,
    Backend,
    Director,
    Event,
    Group,
    ListedOutput,
    WorkflowCheck,
)


def blocking(director: Director) -> None:
    group = director.submit({}, ["gpu-1"], base_seed=3)
    assert_type(group, Group)
    assert_type(director.submit({}, count=3), Group)
    assert_type(group.child_jobs[0].backend_id, str | None)
    assert_type(director.download(group, "images"), tuple[Path, ...])
    for output in director.outputs(starred="yes"):
        assert_type(output, ListedOutput)
    for event in director.stream("jg_1", since=3):
        assert_type(event, Event)
    director.submit({}, ["gpu-1"], urgency=1)  # type: ignore[call-arg]
    assert_type(director.check({}, ["tag:4090"], parameters={"steps": 3}), WorkflowCheck)
    director.status(3)  # type: ignore[arg-type]


async def awaited(director: AsyncDirector) -> None:
    assert_type(await director.pause_backend("gpu-1", now=True), Backend)
    async for group in director.list(limit=3):
        assert_type(group, Group)
    for _ in director.stream("jg_1"):  # type: ignore[attr-defined]
        pass
    await director.pause_backend("gpu-1", hurry=True)  # type: ignore[call-arg]
