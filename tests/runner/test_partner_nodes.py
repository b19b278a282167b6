"""The key of Comfy.org: which prompts and backends get it, and that it appears nowhere."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.apps import apps
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from backends.models import Backend
from backends.simulator import Simulator
from jobgroups.models import JobGroup
from jobgroups.services.backends import backend_update
from jobgroups.services.retries import group_retry
from tests.harness.farm import Farm, in_thread, until
from tests.harness.graphs import partner, picture

KEY = "comfyui-0123456789abcdef0123456789abcdef"
OWN = "comfyui-fedcba9876543210fedcba9876543210"


@pytest.fixture(autouse=True)
def has_key(settings: Settings) -> None:
    settings.DIRECTOR_COMFY_ORG_API_KEY = KEY


async def start(
    farm: Farm, *, version: str = "0.33.0", allowed: bool = True, **options: Any
) -> Simulator:
    """Start gpu-1, and a runner that has the key."""
    sim = await farm.backend(version=version, **options)
    await in_thread(Backend.objects.update)(partner_nodes_allowed=allowed)
    await farm.runner(seen=["gpu-1"], comfy_org_api_key=KEY)
    return sim


def keys(sim: Simulator) -> list[str | None]:
    """Return the keys that a backend got with its prompts."""
    return [entry["extra_data"].get("api_key_comfy_org") for entry in sim.prompts]


@pytest.mark.parametrize(("version", "is_known"), [("0.3.68", True), ("0.33.0", None)])
async def test_confirmed_backend_gets_the_key_with_partner_nodes_alone(
    farm: Farm, version: str, is_known: bool | None
) -> None:
    sim = await start(farm, version=version)
    paid = await farm.completes(workflow=partner(), uses_partner_nodes=is_known)
    other = await farm.completes(workflow=picture(), uses_partner_nodes=is_known and False)
    assert keys(sim) == [KEY, None]
    assert [(await farm.group(one)).uses_partner_nodes for one in (paid, other)] == [
        True,
        is_known and False,
    ]


@pytest.mark.parametrize(("key", "is_known"), [(KEY, True), ("", None)])
async def test_key_of_the_submitter_replaces_that_of_the_installation(
    farm: Farm, settings: Settings, key: str, is_known: bool | None
) -> None:
    settings.DIRECTOR_COMFY_ORG_API_KEY = key
    sim = await start(farm)
    group = await farm.completes(
        "*", count=1, workflow=partner(), uses_partner_nodes=is_known, secret=OWN
    )
    await farm.completes(workflow=picture(), secret=OWN)
    assert keys(sim) == [OWN, None]
    await until(lambda: group.id not in farm.hub.keys)


async def test_job_whose_key_was_lost_fails_with_what_to_do(farm: Farm) -> None:
    sim = await start(farm)
    await in_thread(backend_update)(backend_id="gpu-1", partner_nodes_allowed=False)
    group = await farm.submit(
        "*", count=1, workflow=partner(), uses_partner_nodes=True, secret=OWN, max_attempts=3
    )
    del farm.hub.keys[group.id]
    await in_thread(backend_update)(backend_id="gpu-1", partner_nodes_allowed=True)
    for run in (1, 2):
        farm.wake()
        await farm.finished(group)
        [child] = await farm.children(group)
        assert child.error_message.startswith(
            "The API key that was sent with this job is kept in memory alone"
        )
        assert (child.failure_class, child.attempt_count) == ("workflow_refused", run)
        await in_thread(group_retry)(group_id=group.id)
    assert sim.prompts == []


@pytest.mark.parametrize(
    ("options", "key", "message", "count"),
    [
        (
            {"allowed": False},
            KEY,
            "Not confirmed for partner nodes: allow them on this backend.",
            None,
        ),
        (
            {"version": "0.3.67"},
            KEY,
            "ComfyUI 0.3.67 shows the key of partner nodes to its other users: update it",
            1,
        ),
        (
            {},
            "",
            "Partner nodes need an API key of Comfy.org: set DIRECTOR_COMFY_ORG_API_KEY.",
            None,
        ),
    ],
)
async def test_backend_without_the_key_gets_no_prompt_with_partner_nodes(
    farm: Farm,
    settings: Settings,
    options: dict[str, Any],
    key: str,
    message: str,
    count: int | None,
) -> None:
    settings.DIRECTOR_COMFY_ORG_API_KEY = key
    sim = await start(farm, **options)
    group = await farm.submit("*" if count else "gpu-1", workflow=partner(), count=count)
    if count:
        # It waits for another backend.
        await farm.in_states(group, "refused")
        [attempt] = await farm.attempts(group)
    else:
        await farm.finished(group)
        [attempt] = await farm.attempts(group)
        [child] = await farm.children(group)
        assert child.failure_class == "node_or_model_missing"
    assert attempt.error_message.startswith(message)
    assert (await farm.group(group)).uses_partner_nodes
    assert sim.prompts == []
    assert (await farm.completes(workflow=picture())).status
    assert keys(sim) == [None]


async def test_job_of_the_pool_is_claimed_once_a_user_confirms_its_backend(farm: Farm) -> None:
    sim = await start(farm, allowed=False)
    group = await farm.submit("*", workflow=partner(), count=1)
    await farm.in_states(group, "refused")
    await in_thread(backend_update)(backend_id="gpu-1", partner_nodes_allowed=True)
    farm.wake()
    assert (await farm.finished(group)).status == "completed"
    assert keys(sim) == [KEY]


async def test_backend_whose_confirmation_is_withdrawn_gets_no_key(farm: Farm) -> None:
    sim = await start(farm)
    await farm.completes(workflow=partner())
    await in_thread(backend_update)(backend_id="gpu-1", partner_nodes_allowed=False)
    await farm.finished(await farm.submit(workflow=partner(seed=2)))
    assert keys(sim) == [KEY]


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Have every logger write everything, also those of the libraries."""
    loggers = [
        logging.getLogger(name)
        for name in ("director", "jobgroups", "backends", "aiohttp", "websockets")
    ]
    before = [one.level for one in loggers]
    with caplog.at_level(logging.DEBUG):
        for one in loggers:
            one.setLevel(logging.DEBUG)
        yield caplog
    for one, level in zip(loggers, before, strict=True):
        one.setLevel(level)


def answers(group: JobGroup, job_id: str) -> Iterator[str]:
    """Give what the API, the pages and the admin say about a group and its backend."""
    client = Client()
    admin, _ = User.objects.get_or_create(username="admin", is_staff=True, is_superuser=True)
    client.force_login(admin)
    of_group, of_job = f"/api/job-groups/{group.pk}", f"/api/job-groups/{group.pk}/jobs/{job_id}"
    paths = [
        *(
            "/api/backends",
            "/api/backends/gpu-1",
            "/api/backends/gpu-1/exclusions",
            "/api/health",
            "/api/failures",
        ),
        *(
            of_group,
            f"{of_group}/events",
            f"{of_group}/workflow",
            of_job,
            f"{of_job}/provenance.json",
        ),
        *(
            "/",
            "/backends",
            f"/groups/{group.pk}",
            "/failures",
            f"/submit?group={group.pk}",
            "/admin/backends/backend/gpu-1/change/",
        ),
        *(
            f"/admin/jobgroups/jobgroup/{quote(group.pk)}/change/",
            f"/admin/jobgroups/childjob/{quote(job_id)}/change/",
        ),
        *("/admin/", "/admin/jobgroups/attempt/"),
    ]
    for path in paths:
        answer = client.get(path, headers={"host": "localhost"})
        assert answer.status_code == 200, (path, answer.status_code)
        yield b"".join(answer).decode()


def stored() -> str:
    """Return every value of every row."""
    return json.dumps(
        [list(model._default_manager.values()) for model in apps.get_models()], default=str
    )


@pytest.mark.parametrize(("secret", "sent"), [("", KEY), (OWN, OWN)])
async def test_key_appears_nowhere(
    farm: Farm, everything_logged: pytest.LogCaptureFixture, secret: str, sent: str
) -> None:
    sim = await start(farm)
    sim.fault(
        "node_error", node="TestPartner", type="Exception", message=f"The key {sent} was refused"
    )
    failed = await farm.submit(workflow=partner(), secret=secret)
    assert (await farm.finished(failed)).status == "failed"
    refused = await farm.submit(
        workflow=partner() | {"3": {"class_type": "NoSuchNode", "inputs": {}}}, secret=secret
    )
    await farm.finished(refused)
    completed = await farm.completes(workflow=partner(), secret=secret)
    async with httpx.AsyncClient(trust_env=False) as client:
        shown = (await client.get(f"{sim.url}/history")).text
    # ComfyUI itself has it in the inputs of the node that failed.
    assert sent in shown
    assert keys(sim) == [sent, sent]
    [child] = await farm.children(failed)
    assert child.error_message == "The key  was refused"
    texts = [await in_thread(stored)(), everything_logged.text]
    for group in (failed, refused, completed):
        [child] = await farm.children(group)
        texts += await in_thread(lambda *of: list(answers(*of)))(group, child.pk)
    assert "partner" in texts[0]
    assert "TestPartner" in "".join(texts[2:])
    assert not [text for text in texts if sent in text]
