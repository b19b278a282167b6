"""Sends the prompt of an attempt: its files and its key first, and no other prompt of its workflow
meanwhile.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backends.comfyui import errors
from jobgroups.domain.partner_keys import API_KEY
from jobgroups.runner.attempt import result
from jobgroups.runner.attempt.machine import Refusal, Sent
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.context import SessionContext
from jobgroups.runner.inputs import NotSendable
from jobgroups.services import attempts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    context: SessionContext
    spec: AttemptSpec
    is_stopped: Callable[[], bool]  #: Returns whether a stop of the attempt was requested.

    async def send(self, turn: contextlib.AsyncExitStack) -> Sent | Refusal:
        """Send the prompt, and return what it was answered with; raise ``BackendError`` if it has
        no such answer.

        No other prompt of its workflow is sent until ``turn`` ends: one with a 500 is enough.
        """
        try:
            return await self._send(turn)
        except NotSendable as cause:
            return Refusal(cause.message, cause.details, cause.kind)
        except errors.PromptRefused as error:
            kind, details = result.refusal(error)
            return Refusal(error.detail, details, kind)
        except errors.ResponseLost as error:
            logger.info("%s: %s", self.context.backend_id, error)
            raise

    async def _send(self, turn: contextlib.AsyncExitStack) -> Sent:
        context, spec = self.context, self.spec
        prompt = await context.inputs.place(
            spec.workflow, lambda: context.lease_is_fresh and not self.is_stopped()
        )
        extra_data = await self._extra_data(prompt)
        await turn.enter_async_context(context.turn_of(spec.workflow_digest))
        if self.is_stopped() or spec.workflow_digest in context.uncertain_workflows():
            raise errors.SendAborted(
                "Another prompt of its workflow is uncertain, or it was stopped."
            )
        sent_at = time.monotonic()
        accepted = await context.client.submit(
            prompt,
            prompt_id=spec.prompt_id,
            client_id=spec.client_id,
            extra_data=extra_data,
            targets=spec.prompt_fields.get("partial_execution_targets"),
            may_send=lambda: context.lease_is_fresh,
        )
        return Sent(accepted.prompt_id, accepted.node_errors, sent_at)

    async def _extra_data(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``extra_data`` of the prompt; raise ``NotSendable`` if it needs a key and does
        not get the key.
        """
        context, spec, is_paid = self.context, self.spec, self.spec.uses_partner_nodes
        extra_data = spec.extra_data(
            prompt,
            marks_outputs=context.runner.settings.marks_outputs,
            has_previews=context.orders_previews(spec.group_id),
        )
        if is_paid is None and (is_paid := await context.partners.are_in(spec.workflow)):
            # Before the key is sent: what is paid is not retried as anything else.
            await context.store_of_group(
                spec.group_id, attempts.attempt_has_partner_nodes, attempt_id=spec.attempt_id
            )
        if not is_paid:
            return extra_data
        own_of = spec.group_id if spec.has_secret else None
        name = spec.prompt_fields.get("secret", API_KEY)
        return extra_data | await context.partners.key(context.version, own_of, name)
