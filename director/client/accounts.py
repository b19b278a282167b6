"""Accounts: who the client is, its tokens, and for administrators the people."""

from datetime import datetime

from director.client import calls
from director.client.calls import Endpoints
from director.client.methods import AsyncClient, BlockingClient, method
from director.client.requests import delete, get, moment, post
from jobgroups.domain.shapes.accounts import NewPerson, NewToken, Person, Token


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


class _People(Endpoints):
    """The methods of both clients; ``people`` of a client."""

    @method
    async def list(self) -> tuple[Person, ...]:
        """Return all accounts, by name."""
        return await self._read_all(Person, "people", get("people"))

    @method
    async def add(self, name: str, role: str) -> NewPerson:
        """Add an account; ``password_link`` of the answer is for the person."""
        return await self._read(NewPerson, post("people", repeatable=False, name=name, role=role))

    @method
    async def change(
        self, name: str, *, role: str | None = None, is_active: bool | None = None
    ) -> Person:
        """Change the role of an account, disable or enable it."""
        request = post("people", name, method="PATCH", role=role, is_active=is_active)
        return await self._read(Person, request)

    @method
    async def password_link(self, name: str) -> str | None:
        """Return a link by which an account gets a new password; None: it is a service."""
        request = post("people", name, "password-link", repeatable=False)
        return await self._call(request, lambda answer: answer["password_link"])


class Tokens(_Tokens, BlockingClient):
    """The tokens of a ``Director``."""


class AsyncTokens(_Tokens, AsyncClient):
    """The tokens of an ``AsyncDirector``."""


class People(_People, BlockingClient):
    """The accounts of a ``Director``."""


class AsyncPeople(_People, AsyncClient):
    """The accounts of an ``AsyncDirector``."""
