"""The private names of daphne, Twisted and Autobahn that ``director.server`` uses still exist.

docs/decisions/private-names-of-daphne.md says what for, and what to do if an upgrade breaks one.
"""

import inspect
from typing import Any

import daphne.server
import pytest
from autobahn.websocket.protocol import WebSocketProtocol
from daphne.http_protocol import WebRequest
from twisted.internet import asyncioreactor, tcp
from twisted.web import http


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (asyncioreactor.AsyncioSelectorReactor, "_asyncioEventloop"),
        (daphne.server.Server, "listen_success"),
        (daphne.server.Server, "http_factory"),
        (daphne.server.Server, "ws_factory"),
        (daphne.server.Server, "handle_reply"),
        (daphne.server.Server, "protocol_connected"),
        (daphne.server.Server, "create_application"),
        (WebRequest, "_response_started"),
        (WebSocketProtocol, "_max_message_size_exceeded"),
        (http.Request, "_parsePOSTFormSubmission"),
        (http.Request, "_disconnected"),
        (http.HTTPChannel, "_networkProducer"),
        (http.HTTPChannel, "_command"),
        (http.HTTPChannel, "_path"),
        (http.HTTPChannel, "_receivedHeaderSize"),
        (tcp.Port, "sessionno"),
        (tcp.Port, "doRead"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_private_name_still_exists(owner: Any, name: str) -> None:
    """Many are set in a method, and are no attributes of the class."""
    assert name in inspect.getsource(owner), (
        f"{owner.__module__}.{owner.__qualname__} has no {name} any more"
    )
