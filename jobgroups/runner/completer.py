"""Stores what happens to the attempts of a runner, in sets.

The plain writes of all groups share a transaction; each other one is stored by its service, alone.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken
from jobgroups.runner.sets import Sets, Tasks, Waiting, cancel
from jobgroups.services.attempt_sets import AttemptWrite, attempts_store, may_be_plain

_Waiting = Waiting[AttemptWrite]


@dataclass(frozen=True, slots=True)
class _Group:
    """The writes of a group of which one is stored alone."""

    alone: deque[_Waiting] = field(default_factory=deque)
    later: list[_Waiting] = field(default_factory=list)  #: They come into the queue again.


class Completer:
    """Stores a runner's writes.

    What is stored alone may wait for its group's row. It keeps later writes of its group waiting,
    and no others.
    """

    def __init__(self, database: DatabaseThreads, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._sets = Sets(tasks, database.run_with_retry, _store_plain, self._store_apart)
        self._groups: dict[str, _Group] = {}

    async def store(
        self,
        group_id: str,
        work: Callable[..., Any],
        *,
        fence: FencingToken,
        attempt_id: int,
        **fields: Any,
    ) -> Any:
        """Run a fenced service on an attempt of a group until the database takes it, and return its
        result.

        Raises ``LeaseLost`` if another runner holds the lease now.
        """
        waiting = Waiting(AttemptWrite(work, fence, group_id, attempt_id, fields))
        if (group := self._groups.get(group_id)) is not None:
            group.later.append(waiting)
        else:
            self._sets.put(waiting)
        return await waiting.done

    def _store_apart(self, waiting: _Waiting) -> None:
        group_id = waiting.write.group_id
        if group_id not in self._groups:
            self._groups[group_id] = _Group()
            self._tasks.start(self._store_alone(group_id), f"store {group_id}")
        self._groups[group_id].alone.append(waiting)

    async def _store_alone(self, group_id: str) -> None:
        group = self._groups[group_id]
        waiting: _Waiting | None = None
        try:
            while group.alone:
                waiting = group.alone.popleft()
                try:
                    result = await self._database.run_with_retry(waiting.write.store_alone)
                except Exception as error:  # noqa: BLE001 raised where the result is awaited
                    result = error
                waiting.answer(result)
            del self._groups[group_id]
            for later in group.later:
                self._sets.put(later)
        except BaseException:
            cancel([*group.alone, *group.later, *([waiting] if waiting else [])])
            raise


def _store_plain(writes: Sequence[AttemptWrite]) -> Mapping[AttemptWrite, Any]:
    plain = [write for write in writes if may_be_plain(write)]
    return attempts_store(writes=plain) if plain else {}
