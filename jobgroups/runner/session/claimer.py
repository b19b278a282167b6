"""Claims queued children for one backend and has them sent, while a slot is free."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Final

from backends.comfyui.versions import keeps_prompt_id
from jobgroups.database.threads import TRANSIENT
from jobgroups.domain.schedule import Choice
from jobgroups.queries import work
from jobgroups.runner.context import SessionContext
from jobgroups.runner.intervals import wait_set
from jobgroups.runner.session.attempts import ActiveAttempts
from jobgroups.runner.session.reconciler import Reconciler
from jobgroups.runner.session.sockets import Sockets
from jobgroups.services import attempts as attempt_services, claims
from jobgroups.services.claims import ClaimRequest, ClaimResult

logger = logging.getLogger(__name__)

#: Seconds: a database whose connection broke during a commit may still carry it out.
_UNSURE_FOR: Final = 60.0


class Claimer:
    def __init__(
        self,
        context: SessionContext,
        attempts: ActiveAttempts,
        sockets: Sockets,
        reconciler: Reconciler,
    ) -> None:
        self._context = context
        self._attempts = attempts
        self._sockets = sockets
        self._reconciler = reconciler
        #: Whether nothing more is claimed, since the backend is to be handed over to another
        #: runner.
        self.is_handing_over = False
        #: Whether a child may wait for its retry delay; while none waits, the database is not
        #: queried.
        self._may_be_delayed = True
        self._is_claiming = False
        #: Until when, in monotonic time, a claim may turn up whose commit was not confirmed.
        self._unsure_until = float("-inf")

    @property
    def _rest(self) -> float:
        """Seconds for which nothing is claimed: the backend refused a prompt, and may refuse the
        next as fast.
        """
        return self._context.refused_at + self._context.intervals.refusal_backoff - time.monotonic()

    async def run(self) -> None:
        """Claim and send while a child waits and a slot is free; else wait for a notification."""
        work_available, poll = self._context.work_available, self._context.intervals.poll
        while True:
            if time.monotonic() < self._unsure_until:
                await self._release_orphaned_claims()
            await self._claim_all()
            delay = await self._poll_delay() if self._may_be_delayed else poll
            if (rest := self._rest) > 0:
                delay = min(delay, rest)
            # A writer that queues a child here notifies, and the runner does so every few seconds.
            self._may_be_delayed = await wait_set(work_available, within=delay) or delay < poll
            work_available.clear()

    @property
    def has_no_pending_claim(self) -> bool:
        """Whether every claim has its driver: none is being stored, none may be stored unconfirmed."""
        return not self._is_claiming and time.monotonic() >= self._unsure_until

    async def _poll_delay(self) -> float:
        """Return for how many seconds nothing is to be claimed without a notification."""
        context, poll = self._context, self._context.intervals.poll
        if self.may_claim:
            due_in = await context.database.run_with_retry(work.next_due_in, context.backend_id)
            if due_in is not None:
                return min(due_in, poll)
        return poll

    @property
    def may_claim(self) -> bool:
        """Whether a claim may succeed. The hold of the backend is decided under the fence."""
        context = self._context
        return (
            not self.is_handing_over
            and self._rest <= 0
            and self._reconciler.ran_once
            and context.desired_state.is_schedulable
            and context.stats is not None
            and keeps_prompt_id(context.version)
            and self._sockets.client_id is not None
            and context.availability.is_available
            and context.lease_is_fresh
            and not self._attempts.has_large_prompt
            and len(self._attempts.drivers) < context.runner.settings.depth
        )

    async def _claim_all(self) -> None:
        pool, name = self._context.runner.pool, self._context.backend_id
        while self.may_claim:
            client_id = self._sockets.client_id
            assert client_id is not None  # noqa: S101 see may_claim
            chosen = pool.schedule.choose(name, prompts=self._attempts.prompt_count)
            withheld = self._attempts.uncertain_workflows
            if chosen is not None and chosen.variant.workflow_digest in withheld:
                result = ClaimResult(in_vain=True)
            else:
                first = chosen.bound_first if chosen else pool.schedule.bound_first(name)
                result = await self._claim(client_id, chosen, first, withheld)
            pool.settle(name, chosen, result)
            if result.claim is not None:
                await self._attempts.start_claimed(result.claim)
            elif not result.in_vain:
                return
        pool.schedule.release(name)

    async def _claim(
        self, client_id: str, chosen: Choice | None, bound_first: str, withheld: Collection[str]
    ) -> ClaimResult:
        """Claim a child; without a claim there is none, or the commit was not confirmed."""
        context = self._context
        self._is_claiming = True
        try:
            return await context.runner.claims.claim(
                ClaimRequest(
                    fence=context.fence,
                    client_id=client_id,
                    depth=context.runner.settings.depth,
                    choice=chosen,
                    bound_first=bound_first,
                    held=context.runner.pool.schedule.snapshot.held_at.get(context.backend_id, ()),
                    cancelled=self._attempts.cancelled,
                    withheld=withheld,
                )
            )
        except TRANSIENT as error:
            await self._on_unknown_commit(error)
            return ClaimResult()
        finally:
            self._is_claiming = False

    async def _on_unknown_commit(self, error: Exception) -> None:
        """Check soon, and for a minute, whether a claim was stored whose confirmation was lost."""
        logger.warning(
            "%s: commit of a claim not confirmed (%s)",
            self._context.backend_id,
            str(error).strip() or type(error).__name__,
        )
        self._unsure_until = time.monotonic() + _UNSURE_FOR
        await asyncio.sleep(self._context.intervals.restart_pause)
        self._context.work_available.set()

    async def _release_orphaned_claims(self) -> None:
        """Requeue children whose stored claim has no driver here: their prompts were not sent."""
        stored = await self._context.store(claims.stored_intents)
        for attempt_id in sorted(stored - self._attempts.owned_attempt_ids):
            await self._context.store(attempt_services.attempt_not_sent, attempt_id=attempt_id)
