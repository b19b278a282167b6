"""A backend changes hands only when no attempt suffers, and what was lost meanwhile is not sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.models import Backend
from jobgroups.domain.states import AttemptState
from jobgroups.models import Lease
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.session.session import BackendSession
from tests.harness.farm import Farm, in_thread, until
from tests.runner.test_rare_moments import no_renewal_comes, renewals_come_again, session_of

pytestmark = pytest.mark.django_db(transaction=True)


async def driving(session: BackendSession, state: AttemptState) -> None:
    """Wait until the session drives a prompt in this state."""

    async def there() -> bool:
        return any(one.state is state for one in session.attempts.drivers.values())

    await until(there)


async def test_a_backend_that_is_being_sent_to_is_not_given_up(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.5)
    service = await farm.runner()
    session = await session_of(service)

    async def nothing_is_there() -> bool:
        return session.can_hand_over

    await until(nothing_is_there)
    sim.faults.inject("delay_answer", seconds=1.0)
    group = await farm.submit("gpu-1")
    await driving(session, AttemptState.INTENT)
    assert not session.can_hand_over, "its answer is still to come"
    await driving(session, AttemptState.RUNNING)
    assert session.can_hand_over, "it runs by itself"
    await farm.cancel(group)

    async def wanted() -> bool:
        return any(one.stop_pending for one in session.attempts.drivers.values()) or not session.attempts.drivers

    await until(wanted)
    assert not session.attempts.drivers or not session.can_hand_over, "a stop is owed"
    await farm.finished(group)


async def test_a_backend_that_is_to_go_claims_nothing_more_until_it_stays(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    service = await farm.runner()
    session = await session_of(service)
    # Alone it would keep it.
    service._rebalance = lambda *_: None  # type: ignore[method-assign]
    session.start_handover()
    group = await farm.submit("gpu-1")
    await asyncio.sleep(0.5)
    assert await farm.attempts(group) == []
    session.cancel_handover()
    assert (await farm.finished(group)).status == "completed"


async def test_a_runner_that_stood_still_just_before_it_sent_sends_nothing(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its last look at the clock and the prompt's first byte there is a connection to be made."""
    await farm.backend(seconds=0.1)
    service = await farm.runner()
    session = await session_of(service)
    mark = AttemptSpec.extra_data

    def marked_late(spec: Any) -> dict[str, Any]:
        no_renewal_comes(service)
        return mark.fget(spec)

    monkeypatch.setattr(AttemptSpec, "extra_data", property(marked_late))
    group = await farm.submit("gpu-1")

    async def given_back() -> bool:
        return [row.state for row in await farm.attempts(group)] == ["not_sent"]

    await until(given_back)
    assert "accepted" not in farm.kinds()
    monkeypatch.undo()
    await renewals_come_again(service)
    session.notify()
    assert (await farm.finished(group)).status == "completed"


async def test_a_lease_is_held_only_of_what_is_driven(farm: Farm) -> None:
    """Else it is renewed with the others for ever, and no runner drives the backend."""
    await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    service = await farm.runner()
    await session_of(service, "gpu-1")
    await session_of(service, "gpu-2")
    await in_thread(Backend.objects.filter(pk="gpu-1").update)(enabled=False)
    farm.wake()

    async def holders() -> dict[str, str]:
        rows = Lease.objects.values_list("backend_id", "runner")
        return dict(await in_thread(lambda: list(rows))())

    async def one_is_free() -> bool:
        return await holders() == {"gpu-1": "", "gpu-2": "local"}

    await until(one_is_free)
