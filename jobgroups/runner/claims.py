"""Claims for the backends of a runner, in sets: those of all backends that ask meanwhile share a
transaction.
"""

from collections.abc import Mapping, Sequence

from jobgroups.database.threads import DatabaseThreads
from jobgroups.runner.sets import Sets, Tasks, Waiting
from jobgroups.services.claim_sets import claims_store
from jobgroups.services.claims import ClaimRequest, ClaimResult


class Claims:
    """Stores the claims of a runner; what is not plain, alone."""

    def __init__(self, database: DatabaseThreads, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        # Not repeated: after a commit without a confirmation it would claim other children.
        self._sets = Sets(tasks, database.run, _store_plain, self._store_apart)

    async def claim(self, request: ClaimRequest) -> ClaimResult:
        """Claim a child; after an error of the database that may pass, a claim may be stored."""
        waiting = Waiting(request)
        self._sets.put(waiting)
        result: ClaimResult = await waiting.done
        return result

    def _store_apart(self, waiting: Waiting[ClaimRequest]) -> None:
        self._tasks.start(self._store_alone(waiting), f"claim {waiting.write.fence.backend_id}")

    async def _store_alone(self, waiting: Waiting[ClaimRequest]) -> None:
        try:
            waiting.answer(await self._database.run(waiting.write.store_alone))
        except Exception as error:  # noqa: BLE001 raised where the result is awaited
            waiting.answer(error)
        except BaseException:
            waiting.done.cancel()
            raise


def _store_plain(requests: Sequence[ClaimRequest]) -> Mapping[ClaimRequest, ClaimResult]:
    return claims_store(requests=requests)
