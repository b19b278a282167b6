"""How long a response waits for a client that does not read."""

from __future__ import annotations

import pytest

from director.server.daphne import STALL_TIMEOUT, ClientStalled, _FlowControl


async def test_response_ends_when_its_client_reads_nothing() -> None:
    assert STALL_TIMEOUT == 60
    pace = _FlowControl()
    await pace.wait(0.05)
    pace.pauseProducing()
    with pytest.raises(ClientStalled):
        await pace.wait(0.05)
    pace.resumeProducing()
    await pace.wait(0.05)
