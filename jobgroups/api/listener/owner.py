"""Whose a request at the ComfyUI listener is: every list and every control is the owner's own."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest
from rest_framework.request import Request

from jobgroups.api.permissions import client_address, principal_of
from jobgroups.domain.listener_files import account_owner

_MAX_OWNER = 200  #: Characters of ``ListenerPrompt.owner``.


def owner_of(request: HttpRequest | Request) -> str:
    """Return the key of the owner: of its account; of all who have the shared token; else of the
    client's address and the user that it names in ``Comfy-User``.
    """
    user_id = principal_of(request).user_id
    if user_id is not None:
        return account_owner(user_id)
    if settings.DIRECTOR_TOKEN:
        return "token"
    user = request.headers.get("Comfy-User", "").strip()
    return f"{_machine(client_address(request))} {user}".strip()[:_MAX_OWNER]


def _machine(address: str) -> str:
    """Return the address of a machine in one form: a program may reach ``localhost`` by IPv4 and
    by IPv6 in turn.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return "localhost" if parsed.is_loopback else str(parsed)
