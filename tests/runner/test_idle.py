"""What a session costs the database while nothing waits for its backend: a farm has hundreds of them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from django.db.backends.utils import CursorWrapper

from backends.models import Backend
from tests.harness.farm import SCALE, Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)

#: Seconds of the runner's own time that are looked at.
_LOOKED_AT = 40.0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what the runner's database threads ask."""
    said: Counter[str] = Counter()
    execute = CursorWrapper.execute

    def counted(cursor: Any, sql: Any, params: Any = None) -> Any:
        if threading.current_thread().name.startswith("runner-db") and not _is_a_bracket(str(sql)):
            said[str(sql)] += 1
        return execute(cursor, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", counted)
    return said


def _is_a_bracket(sql: str) -> bool:
    """Whether it begins or ends a transaction, or a part of one: that asks nothing."""
    return sql.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK"))


async def _queries(farm: Farm, asked: Counter[str]) -> int:
    asked.clear()
    await asyncio.sleep(_LOOKED_AT * SCALE)
    return asked.total()


async def test_an_idle_session_asks_the_database_less_than_once_a_second(farm: Farm, asked: Counter[str]) -> None:
    await farm.backend("gpu-0")
    await farm.runner()

    async def all_online() -> bool:
        away = Backend.objects.exclude(reachability="online")
        return not await in_thread(away.exists)()

    await until(all_online)
    alone = await _queries(farm, asked)
    for number in range(1, 5):
        await farm.backend(f"gpu-{number}")
    farm.wake()
    await until(all_online)
    five = await _queries(farm, asked)
    assert five > alone > 0
    assert (five - alone) / 4 / _LOOKED_AT < 1.0, asked.most_common(9)
