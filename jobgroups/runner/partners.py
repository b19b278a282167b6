"""Partner nodes: nodes of ComfyUI that call a partner of Comfy.org, who is paid by the account of an API key.

The key is sent only with a prompt that has such a node, to a backend that a user confirmed and that hides the key.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.node_classes import node_class
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.failures import FailureClass
from jobgroups.queries.work import partner_refusal
from jobgroups.runner.inputs import NotSendable
from jobgroups.workflow import Workflow
from jobgroups.workflow.inventory import class_types, uses_partner_nodes

_DESCRIBED_WITHIN: Final = 5.0  #: Seconds that a backend has to describe the node classes of a prompt.


@dataclass(slots=True, eq=False)
class PartnerNodes:
    """The partner nodes of one backend, and the key for them."""

    backend_id: str
    url: str  #: The address that ``client`` uses, as stored.
    client: ComfyClient
    database: DatabaseThreads
    api_key: str = field(repr=False)
    #: Of the node classes that the backend has, whether they are a partner's.
    _known: dict[str, bool] = field(default_factory=dict)

    def forget(self) -> None:
        """Read the node classes again: the backend may have restarted with others."""
        self._known.clear()

    async def are_in(self, workflow: Workflow) -> bool | None:
        """Return whether the backend marks a node of a workflow as a partner's; None: it did not describe all."""
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(_DESCRIBED_WITHIN):
                for name in sorted(class_types(workflow) - self._known.keys()):
                    described = node_class(await self.client.object_info(name) or {})
                    if described is not None:
                        self._known[name] = described.is_partner
        return uses_partner_nodes(workflow, [self._known])

    async def key(self, version: str | None) -> dict[str, str]:
        """Return the part of ``extra_data`` with the key; raise ``NotSendable`` if the backend does not get the key now.

        ``version`` is that of its ComfyUI.
        """
        if refusal := await self.database.run_with_retry(partner_refusal, self.backend_id, self.url, version or ""):
            raise NotSendable(FailureClass.NODE_OR_MODEL_MISSING, refusal, {"refused_by": "director"})
        return {"api_key_comfy_org": self.api_key}
