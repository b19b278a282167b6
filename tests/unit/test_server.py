import sys
import time

import pytest
from django.test import RequestFactory
from django.views.debug import technical_500_response
from pytest_django import Settings

from director.server.daphne import STALL_TIMEOUT, ClientStalled, _FlowControl
from tests.harness.processes import python

_HANGS = """
import threading
from director.server import shutdown
shutdown.exit_after(0.2, status={status})
# As a database thread that waits for ever: the process would wait for it, too.
threading.Thread(target=threading.Event().wait).start()
"""


@pytest.mark.parametrize("status", [0, 1])
def test_what_hangs_is_left_behind_with_the_status_that_was_meant(status: int) -> None:
    began = time.monotonic()
    left = python("-c", _HANGS.format(status=status))
    assert left.returncode == status, left.stderr
    assert "a thread still runs after 0.2 s" in left.stderr
    assert time.monotonic() - began < 20


async def test_response_ends_when_its_client_reads_nothing() -> None:
    assert STALL_TIMEOUT == 60
    pace = _FlowControl()
    await pace.wait(0.05)
    pace.pauseProducing()
    with pytest.raises(ClientStalled):
        await pace.wait(0.05)
    pace.resumeProducing()
    await pace.wait(0.05)


SECRET = "correct-" + "horse-battery"


@pytest.mark.parametrize("accept", ["text/html", "text/plain"])
def test_no_password_stands_on_a_debug_page(settings: Settings, accept: str) -> None:
    settings.DIRECTOR_NOTIFY = [f"json://ann:{SECRET}@services.example/"]
    settings.DIRECTOR_REDIS_URL = f"redis://:{SECRET}@redis.example:6379/0"
    settings.CHANNEL_LAYERS = {"default": {"CONFIG": {"hosts": [settings.DIRECTOR_REDIS_URL]}}}
    settings.DIRECTOR_BACKENDS = [f"http://ann:{SECRET}@gpu.example:8188"]
    settings.DIRECTOR_TOKEN = settings.SECRET_KEY = SECRET
    request = RequestFactory().get("/", headers={"host": "localhost", "accept": accept})
    try:
        raise RuntimeError("a defect")
    except RuntimeError:
        page = technical_500_response(request, *sys.exc_info()).content.decode()
    assert "DIRECTOR_NOTIFY" in page
    assert SECRET not in page
