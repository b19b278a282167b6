"""Notices reach a real HTTP server: down at first, hanging, beside one that fails, many at once."""

import asyncio
import contextlib
import datetime as dt
import io
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from backends.models import Backend
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.domain.notices import NoticeIntervals
from jobgroups.models import Notice
from jobgroups.runner.notices.notifier import Notifier
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.harness.mailbox import SECRET, Inbox
from tests.harness.servers import free_port
from tests.runner.conftest import supervised

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # One of apprise's many services still uses it.
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
]

#: A minute is a second and a half here, the pauses after a failure are shorter.
PACE = replace(NoticeIntervals.scaled(0.025), poll=0.05, retry_first=0.2, retry_most=0.4)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


@pytest.fixture
def abyss() -> Iterator[str]:
    """A service that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"json://ann:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/?rto=30&cto=30"


@contextlib.asynccontextmanager
async def notifying(
    *urls: str, name: str = "local", pace: NoticeIntervals = PACE
) -> AsyncIterator[None]:
    database = DatabaseThreads(threads=1, name="notices")
    notifier = Notifier(urls=urls, name=name, pace=pace, database=database)
    task = asyncio.get_running_loop().create_task(notifier.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(database.close)


def notice(title: str, kind: str = "group_ended") -> Notice:
    moment = now()
    return Notice.objects.create(
        kind=kind, title=title, body=f"{title}, took 1 s", created_at=moment, next_attempt_at=moment
    )


async def stored() -> list[Notice]:
    return await in_thread(lambda: list(Notice.objects.order_by("id")))()


async def all_sent() -> bool:
    rows = await stored()
    return bool(rows) and all(one.sent_at is not None for one in rows)


async def test_a_group_is_told_once_the_service_that_was_down_is_up(
    farm: Farm, inbox: Inbox, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DIRECTOR_TIME_SCALE = 0.02
    settings.DIRECTOR_NOTIFY = [inbox.url]
    settings.DIRECTOR_NOTIFY_ON = ["group_ended"]
    settings.DIRECTOR_PUBLIC_URL = "http://farm.example"
    caplog.set_level(logging.DEBUG)
    await farm.backend(seconds=0.1)
    async with supervised(farm):
        group = await farm.submit("gpu-1", metadata={"name": "shot_001"})
        await until_row(Notice.objects.filter(last_error__contains="did not take it"))
        inbox.open()
        await until(all_sent)
    assert inbox.titles == ["shot_001: done"]
    first, link = inbox.got[0]["message"].split("\n")
    assert first.startswith("shot_001: done, took ")
    assert link == f"http://farm.example/groups/{group.id}"
    (row,) = await stored()
    assert row.attempt_count >= 2
    assert row.last_error == ""
    ours = [one for one in caplog.records if not one.name.startswith(("apprise", "urllib3"))]
    assert not [one for one in ours if SECRET in one.getMessage()]


async def test_a_service_that_hangs_costs_nothing(
    farm: Farm, abyss: str, settings: Settings
) -> None:
    settings.DIRECTOR_TIME_SCALE = 0.02
    settings.DIRECTOR_NOTIFY = [abyss]
    await farm.backend(seconds=0.1)
    await in_thread(notice)("earlier: done")
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            asked = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - asked - 0.01)

    async with supervised(farm):
        # Modules are loaded by now.
        await until_row(Notice.objects.filter(last_error__contains="did not answer within"))
        ticking = asyncio.get_running_loop().create_task(tick())
        began = time.monotonic()
        await farm.completes("gpu-1")
        assert time.monotonic() - began < 20
        ticking.cancel()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 15
    assert worst < 10
    assert not [one for one in await stored() if one.sent_at]
    assert SECRET not in "".join([one.last_error for one in await stored()])


async def test_a_backend_that_is_away_while_work_waits_for_it_is_told(
    farm: Farm, inbox: Inbox, settings: Settings
) -> None:
    settings.DIRECTOR_TIME_SCALE = 0.02
    settings.DIRECTOR_NOTIFY = [inbox.url]
    inbox.open()
    await farm.register("gpu-9", f"http://127.0.0.1:{free_port()}")
    async with supervised(farm):
        await farm.submit("gpu-9")
        await until(all_sent)
    assert inbox.titles == ["gpu-9 does not answer"]
    assert inbox.got[0]["message"].startswith("gpu-9 has not answered for ")
    assert inbox.got[0]["message"].endswith("; 1 job waits for it.")


async def test_what_the_last_runner_saw_hours_ago_is_told_to_nobody(
    farm: Farm, inbox: Inbox, settings: Settings
) -> None:
    settings.DIRECTOR_NOTIFY = [inbox.url]
    settings.DIRECTOR_NOTIFY_ON = ["backend_trouble"]
    inbox.open()
    # It was away when the machine was switched off.
    await farm.register("gpu-9", f"http://127.0.0.1:{free_port()}")
    await in_thread(Backend.objects.update)(
        reachability="offline", unreachable_since=now() - dt.timedelta(hours=9)
    )
    await farm.submit("gpu-9")
    pace = NoticeIntervals()
    notifier = Notifier(urls=[inbox.url], name="local", pace=pace, database=farm._background)
    notifier._began_at = time.monotonic()
    await notifier._look()
    assert await stored() == []
    # The runner has probed every backend meanwhile.
    notifier._began_at -= pace.settled_after
    await notifier._look()
    assert inbox.titles == ["gpu-9 does not answer"]


async def test_one_service_that_fails_keeps_no_other_from_being_told_and_none_is_told_twice(
    inbox: Inbox,
) -> None:
    other = Inbox()
    inbox.open()
    await in_thread(notice)("a: done")
    async with notifying(inbox.url, other.url):
        await until_row(Notice.objects.filter(attempt_count__gte=2))
        await in_thread(notice)("b: done")
        await until(lambda: len(inbox.titles) == 2)
        other.open()
        await until(all_sent)
    other.close()
    assert inbox.titles == ["a: done", "b: done"]
    assert "entry" not in str(inbox.got)
    assert " ".join(one["message"] for one in other.got).count("a: done, took") == 1


async def test_what_a_service_took_it_is_not_told_again_by_the_next_runner(inbox: Inbox) -> None:
    """The mail server is down all night, and the Director starts again and again."""
    inbox.open()
    other = Inbox()
    await in_thread(notice)("a: done")
    for tries in (1, 2, 3):
        async with notifying(inbox.url, other.url, name=f"start {tries}"):
            # The error is that of an earlier start until this one has stored its own and given the
            # claim back.
            tried = Notice.objects.filter(attempt_count__gte=tries, claimed_by="")
            await until_row(tried.filter(last_error__contains="did not take it"))
    other.open()
    # Also in another order: a service is known by what it is.
    async with notifying(other.url, inbox.url):
        await until(all_sent)
    other.close()
    assert inbox.titles == ["a: done"]
    assert other.titles == ["a: done"]
    assert (await stored())[0].delivered_to == ""


async def test_what_is_taken_too_late_is_taken_all_the_same(inbox: Inbox) -> None:
    inbox.open(answers_after=PACE.timeout * 2)
    await in_thread(notice)("a: done")
    async with notifying(inbox.url):
        await until(all_sent)
    assert inbox.titles == ["a: done"]


def test_the_command_tries_each_entry_and_shows_no_password(
    inbox: Inbox, settings: Settings
) -> None:
    inbox.open()
    settings.DIRECTOR_NOTIFY = [inbox.url]
    out = io.StringIO()
    call_command("notices", "--test", stdout=out)
    assert out.getvalue() == "entry 1 (json): delivered.\n"
    assert inbox.titles == ["Test notice of the Director"]
    settings.DIRECTOR_NOTIFY = [inbox.url, Inbox().url]
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 of 2 services failed"):
        call_command("notices", "--test", stdout=out)
    assert "entry 2 (json) did not take it: " in out.getvalue()
    assert SECRET not in out.getvalue()
    settings.DIRECTOR_NOTIFY = []
    with pytest.raises(CommandError, match="DIRECTOR_NOTIFY is not set"):
        call_command("notices", "--test")


def test_the_command_lists_what_was_told() -> None:
    out = io.StringIO()
    call_command("notices", stdout=out)
    assert out.getvalue() == "No notices yet.\n"
    notice("a: done")
    Notice.objects.update(attempt_count=2, last_error="entry 1 (json) did not take it: refused")
    out = io.StringIO()
    call_command("notices", stdout=out)
    assert out.getvalue().endswith(
        "pending, tried 2 times: entry 1 (json) did not take it: refused  a: done\n"
    )
