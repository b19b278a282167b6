"""Events reach a real HTTP server of a user: down for an hour, killed runners, redirects, refused
addresses.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pytest_django import Settings

from backends.comfyui import destinations
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.states import RetryScope
from jobgroups.domain.webhooks import ENDS
from jobgroups.models import JobEvent, JobGroup, WebhookDelivery
from jobgroups.runner.webhooks import WebhookClient, WebhookSender
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.harness.receiver import Receiver

pytestmark = pytest.mark.django_db(transaction=True)

#: An hour is 0.7 s here. A message to this machine may still take a while on a loaded one, and none
#: is given up.
PACE = replace(DeliveryIntervals.scaled(0.0002), poll=0.05, timeout=1.0, claim=2.0, give_up=600.0)
Receivers = Callable[..., Receiver]


@pytest.fixture
def receivers(settings: Settings) -> Iterator[Receivers]:
    settings.DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES = True
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(
            contextlib.closing(Receiver(*args, **options))
        )


@contextlib.asynccontextmanager
async def sending(name: str = "local", pace: DeliveryIntervals = PACE) -> AsyncIterator[None]:
    """Run the sender of a runner, which is killed at the end of the block."""
    database = DatabaseThreads(threads=1, name="webhooks")
    task = asyncio.get_running_loop().create_task(
        WebhookSender(name=name, pace=pace, database=database).run()
    )
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.to_thread(database.close)


async def submit(farm: Farm, url: str, *backend_ids: str, **fields: Any) -> JobGroup:
    return await farm.submit(*backend_ids, webhook={"url": url, "events": ENDS}, **fields)


async def test_webhook_that_fails_for_an_hour_gets_everything_in_order_over_a_kill(
    farm: Farm, receivers: Receivers, settings: Settings
) -> None:
    """Twelve jobs, five of which fail; a machine goes while it renders."""
    settings.DIRECTOR_QUARANTINE_FAILURES = 0
    status, other = [500], receivers()
    hook = receivers(lambda _: status[0])
    for name, seconds in {"gpu-1": 0.05, "gpu-2": 0.05, "gpu-3": 1.0}.items():
        await farm.backend(name, seconds=seconds)
    farm.sims["gpu-1"].fault("node_error", count=5)
    await farm.runner(seen=list(farm.sims), move_after_s=0.3)
    elsewhere = {"retry_elsewhere": RetryScope.ANY, "max_attempts": 2, "retry_on": ["backend_lost"]}
    group = await submit(farm, hook.url, *["gpu-1", "gpu-1", "gpu-2", "gpu-3"] * 3, **elsewhere)
    async with sending("one"):
        await until(lambda: len(hook.seen) >= 2)
        farm.sims["gpu-3"].crash()
        await submit(farm, other.url, "gpu-2")
        await until(lambda: len(other.events) == 2)
        await farm.finished(group, within=60)
        failures = len(hook.seen)
        await until(lambda: len(hook.seen) > failures + 1)
        # A message is on its way when the runner is killed.
        await until_row(WebhookDelivery.objects.filter(group=group).exclude(claimed_by=""))
    assert len(set(hook.seen)) == 1
    status[0] = 200
    rows = (
        JobEvent.objects.filter(group=group, type__in=ENDS)
        .order_by("seq")
        .values_list("type", "seq")
    )
    expected = await in_thread(lambda: list(rows))()
    async with sending("two"):
        await until(lambda: len(hook.got) == len(expected), within=40)
    assert hook.events == expected
    kinds = [kind for kind, _ in expected]
    assert (len(kinds), kinds.count("child_failed") >= 5, kinds[-1]) == (13, True, "group_complete")


async def test_webhook_that_hangs_delays_no_other_one(farm: Farm, receivers: Receivers) -> None:
    hook = receivers()
    await farm.start(seconds=0.01)
    with socket.create_server(("127.0.0.1", 0)) as abyss:
        url = f"http://127.0.0.1:{abyss.getsockname()[1]}/"
        for _ in range(8):
            await submit(farm, url)
        await farm.finished(await submit(farm, hook.url), within=60)
        async with sending(pace=replace(PACE, timeout=30.0, claim=60.0)):
            await until(lambda: len(hook.events) == 2)
            busy = WebhookDelivery.objects.filter(url=url).exclude(claimed_by="")
            assert await in_thread(busy.count)() == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 without more")
async def test_many_hosts_that_hang_delay_none_that_answers(
    farm: Farm, receivers: Receivers
) -> None:
    hook = receivers()
    await farm.start(seconds=0.01)
    await farm.finished(await submit(farm, hook.url))
    with socket.create_server(("0.0.0.0", 0), backlog=64) as abyss:
        async with sending(pace=replace(PACE, timeout=30.0, claim=60.0)):
            await until(lambda: len(hook.events) == 2)
            port = abyss.getsockname()[1]
            for number in range(2, 40):
                await submit(farm, f"http://127.0.0.{number}:{port}/{number}")
            busy = WebhookDelivery.objects.filter(url__contains=f":{port}/").exclude(claimed_by="")
            await until_row(busy.filter(url__endswith="/25"))
            await farm.finished(await submit(farm, hook.url), within=60)
            await until(lambda: len(hook.events) == 4)
            assert await in_thread(busy.count)() == 24


@pytest.mark.parametrize("status", [302, 308, 404, 410, 503])
async def test_only_2xx_is_a_success_and_no_redirect_is_followed(
    farm: Farm, receivers: Receivers, status: int
) -> None:
    hook = receivers(
        lambda path: 200 if path == "/else" else status, Location="/else", Retry_After="1"
    )
    await farm.start(seconds=0.01)
    await farm.finished(await submit(farm, hook.url))
    async with sending():
        row = await until_row(WebhookDelivery.objects.filter(last_status=status, claimed_by=""))
    assert f"answered with {f'a redirect ({status})' if status < 400 else status}" in row.last_error
    assert {path for path, _ in hook.seen} == {"/hook"}
    pending = WebhookDelivery.objects.filter(due_at__isnull=False)
    assert await in_thread(pending.count)() == (0 if status == 410 else 2)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "name.test", "[::ffff:127.0.0.1]"])
async def test_nothing_is_sent_to_a_private_address_unless_allowed(
    receivers: Receivers, settings: Settings, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    resolve, hook = socket.getaddrinfo, receivers()
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    for private in (False, True):
        settings.DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES = private
        async with WebhookClient(2.0) as client:
            answer = await client.send(f"http://{host}:{hook.port}/", "msg_1", "{}")
        assert ("DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES" in answer.error) is not private
        assert len(hook.seen) == private


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 without more")
async def test_name_that_is_rebound_to_a_private_address_gets_nothing(
    receivers: Receivers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 stands for a public address."""
    resolve, hook = socket.getaddrinfo, receivers()
    settings.DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES = False
    addresses = ["127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.1"]
    monkeypatch.setattr(destinations, "is_not_public", lambda address: address != "127.0.0.2")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest, **more: resolve(addresses.pop(0), *rest, **more)
    )
    async with WebhookClient(2.0) as client:
        url = f"http://rebound.test:{hook.port}/"
        errors = [(await client.send(url, "msg_1", "{}")).error for _ in range(2)]
    assert ("refused" in errors[0], "no address of it is public" in errors[1]) == (True, True), (
        errors
    )
    assert hook.seen == []
