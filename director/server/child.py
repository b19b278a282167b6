"""A process that ``serve`` started: what it inherits, and how it ends with its supervisor."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers
from django.conf import settings

from director.server.lifeline import end_with_input
from director.server.pairs import PairLayer
from director.web import processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Child:
    """What a process of ``serve`` inherits: its end of a socket pair, and the sockets to listen on."""

    layer: PairLayer
    sockets: list[socket.socket]


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option with which ``serve`` starts a process: the numbers of the sockets' files; on
    Windows, how many.
    """
    parser.add_argument("--inherited", help=argparse.SUPPRESS)


def attach(options: Mapping[str, Any]) -> Child | None:
    """Use what this process inherited, and end with the supervisor from now on; None: it is no
    process of ``serve``.
    """
    given = options["inherited"]
    if given is None:
        return None
    if sys.platform == "win32":
        sockets = [
            socket.fromshare(_read(int.from_bytes(_read(4), "big"))) for _ in range(int(given))
        ]
        # which begins with the sockets; elsewhere ``director.__main__`` does this first
        end_with_input()
    else:
        sockets = [socket.socket(fileno=int(number)) for number in given.split(",")]
    layer = PairLayer(sockets[0], on_report=_keep_states)
    if not settings.DIRECTOR_REDIS_URL:
        layers: Any = channel_layers  # it takes what has the methods of a layer
        layers.set(DEFAULT_CHANNEL_LAYER, layer)
    return Child(layer, sockets[1:])


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit(1)  # the supervisor is gone
        data += part
    return data


def _keep_states(states: list[processes.ProcessState]) -> None:
    processes.states = states
