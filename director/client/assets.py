"""Assets: input files that the Director stores once, and sends to the backends of a job."""

import hashlib
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

from blake3 import blake3

from director.client import calls
from director.client.calls import Endpoints
from director.client.decode import load, parser
from director.client.errors import NotFound
from director.client.methods import AsyncClient, BlockingClient, method
from director.client.requests import delete, get
from jobgroups.domain.shapes.assets import Asset


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, blake3)  # type: ignore[arg-type]  # it has what is called
    return f"blake3:{digest.hexdigest()}"


class _Assets(Endpoints):
    """The methods of both clients; ``assets`` of a client."""

    @method
    async def upload(self, path: str | Path) -> Asset:
        """Store a file, unless the Director has its content: that is found by its hash, without an
        upload.

        Raises:
            PayloadTooLarge: It is larger than the Director accepts.
            OSError: It cannot be read.
        """
        known = await self._wire.in_thread(_hash_of, Path(path))
        try:
            return await self._read(Asset, get("assets", "by-hash", known))
        except NotFound:
            answer = await self._wire.upload("/api/assets", Path(path), {"hash": known})
            return parser(Asset)(load(calls.success(answer).content))

    @method
    async def get(self, asset_id: str) -> Asset:
        """Return one asset."""
        return await self._read(Asset, get("assets", asset_id))

    @method
    def list(self) -> AsyncGenerator[Asset]:
        """Iterate over all assets, newest first."""
        return calls.pages(self._wire, partial(get, "assets"), parser(Asset))

    @method
    async def delete(self, asset_id: str) -> None:
        """Delete an asset.

        Raises:
            Conflict: A group that has not ended needs it.
        """
        await calls.send_accepted(self._wire, delete("assets", asset_id))


class Assets(_Assets, BlockingClient):
    """The assets of a ``Director``."""


class AsyncAssets(_Assets, AsyncClient):
    """The assets of an ``AsyncDirector``."""
