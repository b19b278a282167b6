"""Puts the assets of a prompt on its backend, before the prompt is sent.

A file is named by its hash and counts as present only with its whole length: an upload that broke off, or one of
another Director that is under way, is no file. ComfyUI writes an upload after it has received all of it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError, BackendUnreachable, FileTooLarge, SendAborted
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.failures import FailureClass
from jobgroups.errors import OutputGone, StorageAway
from jobgroups.models import Asset
from jobgroups.outputs.stored import open_stored
from jobgroups.queries.assets import assets_by_id
from jobgroups.workflow import Workflow
from jobgroups.workflow.assets import SUBFOLDER, input_name, references_by_asset, with_file_names

logger = logging.getLogger(__name__)

_TRIES: Final = 3  #: Uploads of a file for one prompt, before the attempt fails.
_STORAGE_PAUSES: Final = 600  #: Pauses between them for which a storage that does not answer is waited for: 10 min.
_TAKEN: Final = "It was taken back before its input file was sent."


@dataclass(eq=False)
class NotSendable(Exception):
    """The prompt cannot be sent to the backend: the attempt fails with this."""

    kind: FailureClass
    message: str
    details: dict[str, Any]


class InputFiles:
    """The input files at one backend. Each is uploaded by one prompt at a time; the others wait and find it."""

    def __init__(self, client: ComfyClient, database: DatabaseThreads, pause: float) -> None:
        self._client = client
        self._database = database
        self._pause = pause
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def place(self, workflow: Workflow, may_send: Callable[[], bool]) -> Workflow:
        """Return the workflow with file names in the place of its references, once the files are at the backend.

        Args:
            workflow: of the prompt.
            may_send: called before each part of a file.

        Raises:
            NotSendable: an asset was deleted, or the backend does not take a file.
            BackendUnreachable: no connection.
            SendAborted: ``may_send`` returned False.
        """
        references = references_by_asset(workflow)
        if not references:
            return workflow
        found = await self._database.run_with_retry(assets_by_id, list(references))
        names = {}
        for asset_id, (node, name) in references.items():
            where = {"node_id": node, "input_name": name, "refused_by": "director"}
            asset = found.get(asset_id)
            if asset is None:
                message = f"Node {node}: the asset of its input {name!r} was deleted. Upload it and submit again."
                raise NotSendable(FailureClass.WORKFLOW_REFUSED, message, where)
            try:
                names[asset_id] = await self._place(asset, may_send)
            except (BackendUnreachable, SendAborted):
                raise
            except FileTooLarge as error:
                megabytes = asset.size_bytes // 2**20 + 1
                message = (
                    f"Node {node}: {asset.name} has {asset.size_bytes / 2**20:.1f} MB, more than the backend"
                    f" accepts (413). Start ComfyUI with --max-upload-size {megabytes} or more."
                )
                raise NotSendable(FailureClass.NODE_OR_MODEL_MISSING, message, where) from error
            except (BackendError, StorageAway) as error:
                message = f"Node {node}: {asset.name} cannot be put on the backend. {error.detail}"
                raise NotSendable(FailureClass.UNREACHABLE, message, where) from error
            except OutputGone as error:
                message = f"Node {node}: the stored file of {asset.name} is lost. Upload it again."
                raise NotSendable(FailureClass.WORKFLOW_REFUSED, message, where) from error
        return with_file_names(workflow, names)

    async def _place(self, asset: Asset, may_send: Callable[[], bool]) -> str:
        path = input_name(asset.hash, asset.name, asset.content_type)
        name = path.removeprefix(f"{SUBFOLDER}/")
        lock = self._locks.setdefault(name, asyncio.Lock())
        tries, until = _TRIES, time.monotonic() + _STORAGE_PAUSES * self._pause
        async with lock:
            while True:
                try:
                    head = await self._client.file_head(name, subfolder=SUBFOLDER, kind="input")
                    if head is None or head.length != asset.size_bytes:
                        await self._upload(asset, name, may_send)
                    return path
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

    async def _upload(self, asset: Asset, name: str, may_send: Callable[[], bool]) -> None:
        stored = await open_stored(asset)

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in stored.chunks():
                if not may_send():
                    raise SendAborted(_TAKEN)
                yield chunk

        await self._client.upload_input(name, chunks(), subfolder=SUBFOLDER, size=asset.size_bytes)
