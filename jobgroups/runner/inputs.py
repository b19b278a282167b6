"""What a prompt needs before it is sent: its assets on the backend, and the key for its partner
nodes.

A file is named by its hash and counts as present only with its whole length: an upload that broke
off, or one of another Director that is under way, is no file. ComfyUI writes an upload after it has
received all of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError, BackendUnreachable, FileTooLarge, SendAborted
from backends.node_classes import node_class
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.failures import KEY_LOST, FailureClass
from jobgroups.domain.partner_keys import API_KEY
from jobgroups.errors import OutputGone, StorageAway
from jobgroups.events.hub import INSTALLATION, Hub
from jobgroups.models import Asset
from jobgroups.outputs.stored import open_stored
from jobgroups.queries.assets import assets_by_id
from jobgroups.queries.work import partner_refusal
from jobgroups.workflow import Workflow
from jobgroups.workflow.assets import (
    SUBFOLDER,
    asset_references,
    input_name,
    is_cached_image,
    with_file_names,
)
from jobgroups.workflow.inventory import class_types, uses_partner_nodes

logger = logging.getLogger(__name__)

_TRIES: Final = 3  #: Uploads of a file for one prompt, before the attempt fails.
#: Pauses between them for which a storage that does not answer is waited for: 10 min.
_STORAGE_PAUSES: Final = 600
_TAKEN: Final = "It was taken back before its input file was sent."


@dataclass(eq=False)
class NotSendable(Exception):
    """The prompt cannot be sent to the backend: the attempt fails with this."""

    kind: FailureClass
    message: str
    details: dict[str, Any]


class InputFiles:
    """The input files at one backend. Each is uploaded by one prompt at a time; the others wait and
    find it.
    """

    def __init__(self, client: ComfyClient, database: DatabaseThreads, pause: float) -> None:
        self._client = client
        self._database = database
        self._pause = pause
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def place(self, workflow: Workflow, may_send: Callable[[], bool]) -> Workflow:
        """Return the workflow with names in the place of its references, once the files are at the
        backend.

        Args:
            workflow: of the prompt.
            may_send: called before each part of a file.

        Raises:
            NotSendable: an asset was deleted, or the backend does not take a file.
            BackendUnreachable: no connection.
            SendAborted: ``may_send`` returned False.
        """
        references = list(asset_references(workflow))
        if not references:
            return workflow
        asset_ids = [asset_id for *_, asset_id in references]
        asset_by_id = await self._database.run_with_retry(assets_by_id, asset_ids)
        placed = set[tuple[str, bool]]()
        for node, name, asset_id in references:
            is_image = is_cached_image(workflow, node)
            if (asset_id, is_image) in placed:
                continue
            placed.add((asset_id, is_image))
            where = {"node_id": node, "input_name": name, "refused_by": "director"}
            asset = asset_by_id.get(asset_id)
            if asset is None:
                message = (
                    f"Node {node}: the asset of its input {name!r} was deleted. Upload it and "
                    "submit again."
                )
                raise NotSendable(FailureClass.WORKFLOW_REFUSED, message, where)
            try:
                await (self._put_image if is_image else self._put_file)(asset, may_send)
            except (BackendUnreachable, SendAborted):
                raise
            except FileTooLarge as error:
                megabytes = asset.size_bytes // 2**20 + 1
                message = (
                    f"Node {node}: {asset.name} has {asset.size_bytes / 2**20:.1f} MB, more than "
                    "the backend"
                    f" accepts (413). Start ComfyUI with --max-upload-size {megabytes} or more."
                )
                raise NotSendable(FailureClass.NODE_OR_MODEL_MISSING, message, where) from error
            except (BackendError, StorageAway) as error:
                message = f"Node {node}: {asset.name} cannot be put on the backend. {error.detail}"
                raise NotSendable(FailureClass.UNREACHABLE, message, where) from error
            except OutputGone as error:
                message = f"Node {node}: the stored file of {asset.name} is lost. Upload it again."
                raise NotSendable(FailureClass.WORKFLOW_REFUSED, message, where) from error
        names = {asset.id: _name(asset) for asset in asset_by_id.values()}
        return with_file_names(workflow, names)

    async def _put_file(self, asset: Asset, may_send: Callable[[], bool]) -> None:
        name = _name(asset).removeprefix(f"{SUBFOLDER}/")

        async def put() -> None:
            head = await self._client.file_head(name, subfolder=SUBFOLDER, kind="input")
            if head is None or head.length != asset.size_bytes:
                chunks = await self._chunks(asset, may_send)
                size = asset.size_bytes
                await self._client.upload_input(name, chunks, subfolder=SUBFOLDER, size=size)

        await self._repeated(put, name, may_send)

    async def _put_image(self, asset: Asset, may_send: Callable[[], bool]) -> None:
        """Put an image at the backend under its hash, so that two owners' ids are no conflict. The
        backend forgets it after some minutes, so each prompt puts it.
        """

        async def put() -> None:
            chunks = await self._chunks(asset, may_send)
            await self._client.put_image(asset.hash, chunks, size=asset.size_bytes)

        await self._repeated(put, asset.hash, may_send)

    async def _repeated(
        self, put: Callable[[], Awaitable[None]], name: str, may_send: Callable[[], bool]
    ) -> None:
        """Put a file at the backend, with some tries; no other prompt puts it meanwhile."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        tries, until = _TRIES, time.monotonic() + _STORAGE_PAUSES * self._pause
        async with lock:
            while True:
                try:
                    await put()
                    return
                except (BackendUnreachable, SendAborted, FileTooLarge):
                    raise
                except StorageAway:
                    if time.monotonic() > until:
                        raise
                    if not may_send():
                        raise SendAborted(_TAKEN) from None
                except BackendError as error:
                    tries -= 1
                    if not tries:
                        raise
                    logger.info("%s: upload of %s failed (%s)", self._client.url, name, error)
                await asyncio.sleep(self._pause)

    async def _chunks(self, asset: Asset, may_send: Callable[[], bool]) -> AsyncIterator[bytes]:
        stored = await open_stored(asset)

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in stored.chunks():
                if not may_send():
                    raise SendAborted(_TAKEN)
                yield chunk

        return chunks()


def _name(asset: Asset) -> str:
    return input_name(asset.hash, asset.name, asset.content_type)


_KEY_LOST: Final = (
    "The API key that was sent with this job is kept in memory alone, and no runner has it: the "
    "Director was restarted, or"
    " a runner in another process was not connected to Redis. Submit the job again with its key."
)
#: Seconds that a backend has to describe the node classes of a prompt.
_DESCRIBED_WITHIN: Final = 5.0


@dataclass(slots=True, eq=False)
class PartnerNodes:
    """The partner nodes of one backend, and the key for them."""

    backend_id: str
    url: str  #: The address that ``client`` uses, as stored.
    client: ComfyClient
    database: DatabaseThreads
    hub: Hub
    key_wait: float  #: Seconds for which the key of a submitter is waited for.
    #: Of the node classes that the backend has, whether they are a partner's.
    _known: dict[str, bool] = field(default_factory=dict)

    def forget(self) -> None:
        """Read the node classes again: the backend may have restarted with others."""
        self._known.clear()

    async def are_in(self, workflow: Workflow) -> bool | None:
        """Return whether the backend marks a node of a workflow as a partner's; None: it did not
        describe all.
        """
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(_DESCRIBED_WITHIN):
                for name in sorted(class_types(workflow) - self._known.keys()):
                    described = node_class(await self.client.object_info(name) or {})
                    if described is not None:
                        self._known[name] = described.is_partner
        return uses_partner_nodes(workflow, [self._known])

    async def key(
        self, version: str | None, own_of: str | None, name: str = API_KEY
    ) -> dict[str, str]:
        """Return the part of ``extra_data`` with the key; raise ``NotSendable`` if the backend does
        not get the key now.

        Args:
            version: that of its ComfyUI.
            own_of: the group whose submitter has sent the key; None: it is the installation's.
            name: the key's in ``extra_data``.
        """
        is_own = own_of is not None
        refusal = await self.database.run_with_retry(
            partner_refusal, self.backend_id, self.url, version or "", has_own_key=is_own
        )
        if refusal:
            raise NotSendable(
                FailureClass.NODE_OR_MODEL_MISSING, refusal, {"refused_by": "director"}
            )
        key = await self.hub.key_of(own_of or INSTALLATION, within=self.key_wait if is_own else 0.0)
        if key is None:
            raise NotSendable(
                FailureClass.WORKFLOW_REFUSED,
                _KEY_LOST,
                {"refused_by": "director", "reason": KEY_LOST},
            )
        return {name: key}
