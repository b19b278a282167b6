"""The tokens of the account. No token permits to manage people."""

from datetime import datetime

from director.client import calls
from director.client.calls import Endpoints
from director.client.methods import AsyncClient, BlockingClient, method
from director.client.requests import delete, get, moment, post
from jobgroups.domain.shapes.accounts import NewToken, Token


class _Tokens(Endpoints):
    """The methods of both clients; ``tokens`` of a client."""

    @method
    async def list(self) -> tuple[Token, ...]:
        """Return the valid tokens of the account, newest first."""
        return await self._read_all(Token, "tokens", get("tokens"))

    @method
    async def create(
        self, name: str, scope: str, *, expires_at: datetime | None = None
    ) -> NewToken:
        """Make a token of the account; ``token`` of the answer is shown this once."""
        ends = None if expires_at is None else moment(expires_at)
        request = post("tokens", repeatable=False, name=name, scope=scope, expires_at=ends)
        return await self._read(NewToken, request)

    @method
    async def revoke(self, token_id: str) -> None:
        """Revoke a token, and those that it made."""
        await calls.send_accepted(self._wire, delete("tokens", token_id))


class Tokens(_Tokens, BlockingClient):
    """The tokens of a ``Director``."""


class AsyncTokens(_Tokens, AsyncClient):
    """The tokens of an ``AsyncDirector``."""
