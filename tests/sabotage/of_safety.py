"""Breakages of what keeps the Director from sending anything where it must not."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

_DESTINATIONS = "backends/comfyui/destinations.py"
_TESTS = "tests/comfyui/test_destinations.py"
_REBOUND = f"{_TESTS}::test_nothing_is_sent_when_a_name_resolves_to_a_refused_address"

OF_SAFETY: tuple[Breakage, ...] = (
    Breakage(
        name="peer of a request unchecked",
        broken="The address of a connection is not checked before a request is sent.",
        hurts="A name that resolves to a cloud's metadata service later has its credentials fetched.",
        edits=(
            Edit(
                _DESTINATIONS,
                "if is_refused(_host_of(peer)):",
                'if is_refused(_host_of(stream.get_extra_info("server_address"))):',
            ),
        ),
        notices=_REBOUND,
    ),
    Breakage(
        name="peer of an event socket unchecked",
        broken="The address of an event socket is not checked before its handshake.",
        hurts="The request of the handshake, with the backend's headers, goes to that address.",
        edits=(Edit(_DESTINATIONS, "if is_refused(_host_of(self.remote_address)):", "if is_refused(_host_of(None)):"),),
        notices=_REBOUND,
    ),
    Breakage(
        name="mapped address is another",
        broken="An IPv4 address in an IPv6 form is not compared with the refused IPv4 network.",
        hurts="`::ffff:169.254.169.254` passes where 169.254.169.254 is refused.",
        edits=(Edit(_DESTINATIONS, "ip = ip.ipv4_mapped or ip", "ip = ip or ip.ipv4_mapped"),),
        notices=f"{_TESTS}::test_link_local_address_is_refused_unless_allowed",
    ),
)
